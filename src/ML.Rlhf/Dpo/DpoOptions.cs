using Microsoft.ML;

namespace ML.Rlhf;

/// <summary>Options of <see cref="DpoTrainer"/>.</summary>
public sealed record DpoOptions : DpoHyperparameters
{
    /// <summary>The text column of prompts, in training and afterwards.</summary>
    public string PromptColumnName { get; init; } = TextGenerationTransformer.DefaultPromptColumn;

    /// <summary>The text column of the answers that people preferred.</summary>
    public string ChosenColumnName { get; init; } = "Chosen";

    /// <summary>The text column of the answers that they preferred less.</summary>
    public string RejectedColumnName { get; init; } = "Rejected";

    /// <summary>The text column that the trained model adds.</summary>
    public string CompletionColumnName { get; init; } = TextGenerationTransformer.DefaultCompletionColumn;

    /// <summary>Held-out preferences, with the same columns.</summary>
    /// <value>Null, the default, measures nothing.</value>
    public IDataView? ValidationData { get; init; }

    /// <summary>How the trained model completes prompts.</summary>
    /// <value>Null, the default, keeps what the model had before.</value>
    public SamplingOptions? Sampling { get; init; }

    internal override void Check(OptionProblems problems)
    {
        base.Check(problems);
        problems.RequireName(nameof(PromptColumnName), PromptColumnName);
        problems.RequireName(nameof(ChosenColumnName), ChosenColumnName);
        problems.RequireName(nameof(RejectedColumnName), RejectedColumnName);
        problems.RequireName(nameof(CompletionColumnName), CompletionColumnName);
        if (Sampling is not null)
            problems.Include(Sampling.Validate);
    }
}
