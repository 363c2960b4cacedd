using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;
using ML.Rlhf.Bridge;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf;

/// <summary>
/// Aligns a language model with a reward by proximal policy optimisation, held near where it began by a KL penalty: step 3 of InstructGPT.
/// </summary>
/// <remarks>
/// | | |
/// |-|-|
/// | Task | reinforcement learning: answers that score higher become more likely |
/// | Input | a text column of prompts, without answers |
/// | Output | <see cref="TextGenerationTransformer"/>: a text column with the completion |
/// | Reward | a reward model, any fitted transformer with a score column, or a function |
/// | Networks in memory | policy, reference and value function (each the size of the model; with adapters, one for all), and the reward |
/// | The given models | are copied, or shared with <see cref="FineTuningOptions.Lora"/>, and stay as they are |
/// </remarks>
public sealed class PpoTrainer : IEstimator<TextGenerationTransformer>
{
    private readonly TrainerHost _host;
    private readonly TextGenerationTransformer _model;
    private readonly Reward _reward;
    private readonly PpoOptions _options;

    internal PpoTrainer(IHostEnvironment environment, TextGenerationTransformer model, Reward reward, PpoOptions options)
    {
        options.ValidateFor(model);
        PolicyFit.RequireRoom(options, model);
        _host = new TrainerHost(environment, nameof(PpoTrainer));
        _model = model;
        _reward = reward;
        _options = options;
    }

    /// <summary>The columns of the prompts and the completion.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    public SchemaShape GetOutputSchema(SchemaShape inputSchema)
    {
        ArgumentNullException.ThrowIfNull(inputSchema);
        TextColumns.RequireText(_host.Host, inputSchema, "prompt", _options.PromptColumnName);
        return Schemas.With(inputSchema, Schemas.Column(_options.CompletionColumnName, TextDataViewType.Instance));
    }

    /// <summary>Trains a copy of the model on its own answers to the prompts.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    /// <exception cref="ArgumentException">The reward does not fit the model or the columns.</exception>
    /// <exception cref="InvalidOperationException">There are no prompts that fit the model, a reward gave a number that is not finite, or
    /// training did (<see cref="AlarmKind.NonFinite"/>).</exception>
    /// <exception cref="OperationCanceledException">The run was stopped.</exception>
    public TextGenerationTransformer Fit(IDataView input)
    {
        ArgumentNullException.ThrowIfNull(input);
        if (_options.PretrainingData is { } text)
            TextColumns.RequireText(_host.Host, text.Schema, "pretraining text", _options.PretrainingTextColumnName);
        return PolicyFit.Train(_host, "PPO", _model, _reward, _options, input, (policy, reference, scorer, goldScorer, prompts, run) =>
        {
            var pretraining = _options.PretrainingData is { } corpus
                ? Tokenization.Documents(corpus, _options.PretrainingTextColumnName, _model.Tokenizer, run.ThrowIfCanceled)
                : null;
            WithValueFunction(policy, run, value =>
                new PpoTraining(policy, value, reference, scorer, _model.Tokenizer.EndOfText, _options, run, goldScorer)
                    .Run(prompts, pretraining));
        });
    }

    /// <summary>Makes the value function of a run, and frees it afterwards.</summary>
    private void WithValueFunction(CausalLanguageModel policy, TrainingRun run, Action<ScalarGpt> train)
    {
        if (_options.ValueFunction == ValueFunction.SharedTrunk)
        {
            var head = new ScalarGpt(policy, generator: null);
            try
            {
                train(head);
            }
            finally
            {
                head.DisposeHead(); // the trunk is the policy, which lives on
            }
            return;
        }
        CausalLanguageModel Begin(CausalLanguageModel trunk) => FineTuning.BeginTrunk(trunk, _options, run);
        using var network = _reward.CreateValueFunction(_model, Begin) ?? _model.Use(trunk => new ScalarGpt(Begin(trunk), generator: null));
        train(network);
    }
}
