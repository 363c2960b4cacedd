using Microsoft.ML;

namespace ML.Rlhf;

/// <summary>Options of <see cref="PpoTrainer"/>.</summary>
public sealed record PpoOptions : PpoHyperparameters, IPolicyColumns
{
    /// <summary>The text column of prompts, in training and afterwards.</summary>
    public string PromptColumnName { get; init; } = TextGenerationTransformer.DefaultPromptColumn;

    /// <summary>The text column that the trained policy adds.</summary>
    public string CompletionColumnName { get; init; } = TextGenerationTransformer.DefaultCompletionColumn;

    /// <summary>How the trained policy completes prompts.</summary>
    /// <value>Null, the default, keeps what the model had before.</value>
    public SamplingOptions? Sampling { get; init; }

    /// <summary>Text of the kind that the model was pretrained on, which PPO then goes on predicting so that it does not forget
    /// (PPO-ptx).</summary>
    /// <value>Null, the default, mixes nothing in.</value>
    public IDataView? PretrainingData { get; init; }

    /// <summary>The text column of <see cref="PretrainingData"/>, one document per row.</summary>
    public string PretrainingTextColumnName { get; init; } = "Text";

    /// <summary>
    /// A second reward that nobody optimises: it scores the same responses, and an alarm is raised when its mean falls while that of the
    /// first rises (<see cref="AlarmKind.FallingGoldScore"/>). A larger reward model, one that was trained on other labels, or the rule
    /// that the labels came from.
    /// </summary>
    /// <value>Null, the default, watches no second score. The means are <see cref="PolicyProgress.GoldScore"/>.</value>
    public Reward? GoldReward { get; init; }

    internal override void Check(OptionProblems problems)
    {
        base.Check(problems);
        problems.RequireName(nameof(PromptColumnName), PromptColumnName);
        problems.RequireName(nameof(CompletionColumnName), CompletionColumnName);
        problems.RequireName(nameof(PretrainingTextColumnName), PretrainingTextColumnName);
        if (Sampling is not null)
            problems.Include(Sampling.Validate);
    }
}
