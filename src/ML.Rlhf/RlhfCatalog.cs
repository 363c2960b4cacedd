using Microsoft.ML;

namespace ML.Rlhf;

/// <summary>The way in: <c>ml.Rlhf()</c>.</summary>
public static class RlhfExtensions
{
    /// <summary>Language models and their training by human feedback, as components of ML.NET.</summary>
    /// <param name="ml">The context: its log, seed, device and cancellation hold for everything that comes out of the catalog.</param>
    public static RlhfCatalog Rlhf(this MLContext ml)
    {
        ArgumentNullException.ThrowIfNull(ml);
        return new RlhfCatalog(ml);
    }
}

/// <summary>Trainers, tokenizers and evaluation for language models. Get one from <see cref="RlhfExtensions.Rlhf"/>.</summary>
public sealed class RlhfCatalog
{
    private readonly MLContext _context;

    internal RlhfCatalog(MLContext context)
    {
        _context = context;
        Trainers = new TrainerCatalog(context);
        Tokenizers = new TokenizerCatalog(context);
        Transforms = new TransformCatalog(context);
        Models = new ModelCatalog(context);
    }

    /// <summary>The three steps of InstructGPT, and the pretraining before them.</summary>
    public TrainerCatalog Trainers { get; }

    /// <summary>Tokenizers, ready made or trained.</summary>
    public TokenizerCatalog Tokenizers { get; }

    /// <summary>Data transformations.</summary>
    public TransformCatalog Transforms { get; }

    /// <summary>Models from files.</summary>
    public ModelCatalog Models { get; }

    /// <summary>Measures how well a model predicts whole documents.</summary>
    /// <param name="model">The model.</param>
    /// <param name="data">Held-out documents.</param>
    /// <param name="textColumnName">The text column, one document per row.</param>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    /// <exception cref="InvalidOperationException">There are no documents.</exception>
    public LanguageModelMetrics EvaluateLanguageModel(TextGenerationTransformer model, IDataView data, string textColumnName = "Text") =>
        Evaluation.LanguageModel(_context, model, data, textColumnName);

    /// <summary>Measures how well a model predicts the completions that people wrote, given their prompts.</summary>
    /// <param name="model">The model.</param>
    /// <param name="data">Held-out demonstrations.</param>
    /// <param name="promptColumnName">The text column of prompts.</param>
    /// <param name="completionColumnName">The text column of completions.</param>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    /// <exception cref="InvalidOperationException">There are no demonstrations that fit the model.</exception>
    public LanguageModelMetrics EvaluateDemonstrations(
        TextGenerationTransformer model, IDataView data, string promptColumnName = TextGenerationTransformer.DefaultPromptColumn,
        string completionColumnName = TextGenerationTransformer.DefaultCompletionColumn) =>
        Evaluation.Demonstrations(_context, model, data, promptColumnName, completionColumnName);

    /// <summary>Measures how far a policy has moved from the model that it began as, on its own answers to held-out prompts.</summary>
    /// <param name="policy">The policy. It answers with its own <see cref="TextGenerationTransformer.Sampling"/>, without top-k and
    /// top-p.</param>
    /// <param name="reference">The model to compare with; it needs the same tokenizer.</param>
    /// <param name="prompts">Held-out prompts.</param>
    /// <param name="promptColumnName">The text column of prompts.</param>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    /// <exception cref="ArgumentException">The tokenizers differ, or the policy samples with top-k, top-p or temperature 0.</exception>
    /// <exception cref="InvalidOperationException">There are no prompts that fit the model.</exception>
    public PolicyMetrics EvaluatePolicy(
        TextGenerationTransformer policy, TextGenerationTransformer reference, IDataView prompts,
        string promptColumnName = TextGenerationTransformer.DefaultPromptColumn) =>
        Evaluation.Policy(_context, policy, reference, prompts, promptColumnName);

    /// <summary>
    /// Measures how often a reward model agrees with people, beside a rule that only compares the lengths of the answers.
    /// </summary>
    /// <param name="model">The reward model.</param>
    /// <param name="data">Held-out preferences.</param>
    /// <param name="promptColumnName">The text column of prompts.</param>
    /// <param name="chosenColumnName">The text column of preferred answers.</param>
    /// <param name="rejectedColumnName">The text column of the other answers.</param>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    /// <exception cref="InvalidOperationException">There are no preferences.</exception>
    public RewardModelMetrics EvaluateRewardModel(
        RewardTransformer model, IDataView data, string promptColumnName = TextGenerationTransformer.DefaultPromptColumn,
        string chosenColumnName = "Chosen", string rejectedColumnName = "Rejected") =>
        Evaluation.RewardModel(_context, model, data, promptColumnName, chosenColumnName, rejectedColumnName);
}

/// <summary>Makes trainers: <c>ml.Rlhf().Trainers</c>.</summary>
public sealed class TrainerCatalog
{
    private readonly MLContext _context;

    internal TrainerCatalog(MLContext context) => _context = context;

    /// <summary>Trains a GPT from nothing on a corpus of text.</summary>
    /// <param name="textColumnName">The text column, one document per row.</param>
    /// <param name="architecture">The shape of the model; null for <see cref="GptArchitecture.Micro"/>.</param>
    /// <param name="steps">Optimiser steps.</param>
    public GptTrainer Gpt(string textColumnName = "Text", GptArchitecture? architecture = null, int steps = 2000) =>
        Gpt(new GptOptions { TextColumnName = textColumnName, Architecture = architecture ?? GptArchitecture.Micro, Steps = steps });

    /// <summary>Trains a GPT from nothing on a corpus of text.</summary>
    /// <param name="options">All that can be chosen.</param>
    /// <exception cref="ArgumentException">Values are out of their ranges; the message lists each one.</exception>
    public GptTrainer Gpt(GptOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        return new GptTrainer(_context, options);
    }

    /// <summary>Fine-tunes a model on demonstrations: step 1 of InstructGPT.</summary>
    /// <param name="model">The model to start from; it is copied.</param>
    /// <param name="promptColumnName">The text column of prompts.</param>
    /// <param name="completionColumnName">The text column of completions.</param>
    /// <param name="epochs">Passes over the demonstrations.</param>
    public SupervisedFineTuningTrainer SupervisedFineTuning(
        TextGenerationTransformer model, string promptColumnName = TextGenerationTransformer.DefaultPromptColumn,
        string completionColumnName = TextGenerationTransformer.DefaultCompletionColumn, int epochs = 2) =>
        SupervisedFineTuning(model, new SupervisedFineTuningOptions
        {
            PromptColumnName = promptColumnName,
            CompletionColumnName = completionColumnName,
            Epochs = epochs,
        });

    /// <summary>Fine-tunes a model on demonstrations: step 1 of InstructGPT.</summary>
    /// <param name="model">The model to start from; it is copied.</param>
    /// <param name="options">All that can be chosen.</param>
    /// <exception cref="ArgumentException">Values are out of their ranges; the message lists each one.</exception>
    public SupervisedFineTuningTrainer SupervisedFineTuning(TextGenerationTransformer model, SupervisedFineTuningOptions options)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(options);
        return new SupervisedFineTuningTrainer(_context, model, options);
    }

    /// <summary>Trains a reward model on preferences: step 2 of InstructGPT.</summary>
    /// <param name="model">The model to start from, after step 1; it is copied and gets a scalar head.</param>
    /// <param name="promptColumnName">The text column of prompts.</param>
    /// <param name="chosenColumnName">The text column of preferred answers.</param>
    /// <param name="rejectedColumnName">The text column of the other answers.</param>
    /// <param name="epochs">Passes over the preferences.</param>
    public RewardModelTrainer RewardModel(
        TextGenerationTransformer model, string promptColumnName = TextGenerationTransformer.DefaultPromptColumn,
        string chosenColumnName = "Chosen", string rejectedColumnName = "Rejected", int epochs = 1) =>
        RewardModel(model, new RewardModelOptions
        {
            PromptColumnName = promptColumnName,
            ChosenColumnName = chosenColumnName,
            RejectedColumnName = rejectedColumnName,
            Epochs = epochs,
        });

    /// <summary>Trains a reward model on preferences: step 2 of InstructGPT.</summary>
    /// <param name="model">The model to start from, after step 1; it is copied and gets a scalar head.</param>
    /// <param name="options">All that can be chosen.</param>
    /// <exception cref="ArgumentException">Values are out of their ranges; the message lists each one.</exception>
    public RewardModelTrainer RewardModel(TextGenerationTransformer model, RewardModelOptions options)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(options);
        return new RewardModelTrainer(_context, model, options);
    }

    /// <summary>Aligns a model with a fitted reward: step 3 of InstructGPT.</summary>
    /// <param name="model">The model to start from, after step 1; it is copied, and the copy is held near it.</param>
    /// <param name="reward">
    /// A reward model (<see cref="RewardTransformer"/>), or any fitted transformer that reads the text columns <c>Prompt</c>,
    /// <c>Completion</c> or <c>Text</c> (the completion) and gives a score column.
    /// </param>
    /// <param name="promptColumnName">The text column of prompts.</param>
    /// <param name="klCoefficient">β: what a nat of divergence from the model costs, in units of score.</param>
    /// <param name="episodes">Answers to learn from.</param>
    public PpoTrainer Ppo(
        TextGenerationTransformer model, ITransformer reward, string promptColumnName = TextGenerationTransformer.DefaultPromptColumn,
        double klCoefficient = 0.05, int episodes = 10_000) =>
        Ppo(model, reward, new PpoOptions { PromptColumnName = promptColumnName, KlCoefficient = klCoefficient, Episodes = episodes });

    /// <summary>Aligns a model with a fitted reward: step 3 of InstructGPT.</summary>
    /// <inheritdoc cref="Ppo(TextGenerationTransformer, ITransformer, string, double, int)"/>
    /// <param name="model">The model to start from, after step 1; it is copied, and the copy is held near it.</param>
    /// <param name="reward">A reward model, or any fitted transformer with a score column.</param>
    /// <param name="options">All that can be chosen.</param>
    /// <exception cref="ArgumentException">Values are out of their ranges; the message lists each one.</exception>
    public PpoTrainer Ppo(TextGenerationTransformer model, ITransformer reward, PpoOptions options)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(reward);
        ArgumentNullException.ThrowIfNull(options);
        return new PpoTrainer(_context, model, reward is RewardTransformer own && own.Tokenizer.Equals(model.Tokenizer)
            ? new ModelReward(own)
            : new TransformerReward(_context, reward), options);
    }

    /// <summary>Aligns a model with a rule.</summary>
    /// <param name="model">The model to start from; it is copied, and the copy is held near it.</param>
    /// <param name="reward">From prompt and completion to a finite score; higher is better.</param>
    /// <param name="promptColumnName">The text column of prompts.</param>
    /// <param name="klCoefficient">β: what a nat of divergence from the model costs, in units of score.</param>
    /// <param name="episodes">Answers to learn from.</param>
    public PpoTrainer Ppo(
        TextGenerationTransformer model, Func<string, string, float> reward,
        string promptColumnName = TextGenerationTransformer.DefaultPromptColumn,
        double klCoefficient = 0.05, int episodes = 10_000) =>
        Ppo(model, reward, new PpoOptions { PromptColumnName = promptColumnName, KlCoefficient = klCoefficient, Episodes = episodes });

    /// <summary>Aligns a model with a rule.</summary>
    /// <param name="model">The model to start from; it is copied, and the copy is held near it.</param>
    /// <param name="reward">From prompt and completion to a finite score; higher is better.</param>
    /// <param name="options">All that can be chosen.</param>
    /// <exception cref="ArgumentException">Values are out of their ranges; the message lists each one.</exception>
    public PpoTrainer Ppo(TextGenerationTransformer model, Func<string, string, float> reward, PpoOptions options)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(reward);
        ArgumentNullException.ThrowIfNull(options);
        return new PpoTrainer(_context, model, new FunctionReward(reward), options);
    }
}
