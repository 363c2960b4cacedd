using Microsoft.ML;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;
using TorchSharp;

namespace ML.Rlhf;

/// <summary>What options of trainers that learn from their own answers say beside the numbers of the loop.</summary>
internal interface IPolicyColumns
{
    string PromptColumnName { get; }

    string CompletionColumnName { get; }

    SamplingOptions? Sampling { get; }

    Reward? GoldReward { get; }
}

/// <summary>Trains a copy of the model in its place.</summary>
internal delegate void PolicyLoop(
    CausalLanguageModel policy, CausalLanguageModel reference, EpisodeScorer scorer, EpisodeScorer? goldScorer, TokenSequences prompts,
    TrainingRun run);

/// <summary>What trainers that learn from their own answers do around their loops.</summary>
internal static class PolicyFit
{
    /// <exception cref="ArgumentException">The model's context does not hold a prompt and a response.</exception>
    public static void RequireRoom(PolicyHyperparameters options, TextGenerationTransformer model)
    {
        if (options.MaxResponseTokens >= model.Architecture.ContextLength)
            throw new ArgumentException(
                $"{options.GetType().Name}: {nameof(options.MaxResponseTokens)} is {options.MaxResponseTokens}, but the model's context " +
                $"is {model.Architecture.ContextLength} tokens and must hold the prompt too. Lower it, or use a model with a longer " +
                "context.");
    }

    /// <summary>Reads the prompts, makes policy and reference of the model, and makes a transformer of what the loop trained.</summary>
    public static TextGenerationTransformer Train<TOptions>(
        TrainerHost host, string stage, TextGenerationTransformer model, Reward reward, TOptions options, IDataView input, PolicyLoop loop)
        where TOptions : PolicyHyperparameters, IPolicyColumns
    {
        TextColumns.RequireText(host.Host, input.Schema, "prompt", options.PromptColumnName);
        return host.Train(stage, options, run =>
        {
            run.DependsOn("Reward", () => string.Join(' ', reward.Fingerprints));
            var scorer = reward.CreateScorer(model, options.Precision);
            var goldScorer = options.GoldReward?.CreateScorer(model, options.Precision);
            var prompts = Tokenization.Prompts(
                input, options.PromptColumnName, model.Tokenizer, model.Architecture.ContextLength, options.MaxResponseTokens, run.Warn,
                run.ThrowIfCanceled);
            run.Log($"{prompts.Count} prompts, {options.Episodes} episodes.");

            return LanguageModel.Build(
                model.Use(network => FineTuning.Begin(network, options, run)), model.Tokenizer, model.Architecture,
                policy =>
                {
                    using var reference = FineTuning.Reference(policy);
                    loop(policy, reference, scorer, goldScorer, prompts, run);
                },
                trained => new TextGenerationTransformer(
                    host.Environment, trained, options.PromptColumnName, options.CompletionColumnName, options.Sampling ?? model.Sampling,
                    model.ChatTemplate));
        });
    }
}
