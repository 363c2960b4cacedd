using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;
using ML.Rlhf.Bridge;
using ML.Rlhf.Torch.Training;

namespace ML.Rlhf;

/// <summary>
/// Aligns a language model with a reward by REINFORCE leave-one-out (Ahmadian et al. 2024): an answer is as good as its score, less the KL
/// penalty, is above the mean of the other answers to the same prompt. PPO without a value function.
/// </summary>
/// <remarks>
/// | | |
/// |-|-|
/// | Task | reinforcement learning: answers that score higher become more likely |
/// | Input | a text column of prompts, without answers |
/// | Output | <see cref="TextGenerationTransformer"/>: a text column with the completion |
/// | Reward | a reward model, any fitted transformer with a score column, or a function |
/// | Networks in memory | policy and reference (each the size of the model; with adapters, one for both), and the reward |
/// | The given models | are copied, or shared with <see cref="FineTuningOptions.Lora"/>, and stay as they are |
/// </remarks>
public sealed class RlooTrainer : IEstimator<TextGenerationTransformer>
{
    private readonly TrainerHost _host;
    private readonly TextGenerationTransformer _model;
    private readonly Reward _reward;
    private readonly RlooOptions _options;

    internal RlooTrainer(IHostEnvironment environment, TextGenerationTransformer model, Reward reward, RlooOptions options)
    {
        options.ValidateFor(model);
        PolicyFit.RequireRoom(options, model);
        _host = new TrainerHost(environment, nameof(RlooTrainer));
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
        return PolicyFit.Train(_host, "RLOO", _model, _reward, _options, input, (policy, reference, scorer, goldScorer, prompts, run) =>
            new RlooTraining(policy, reference, scorer, _model.Tokenizer.EndOfText, _options, run, goldScorer).Run(prompts));
    }
}
