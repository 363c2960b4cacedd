namespace ML.Rlhf;

/// <summary>Options of <see cref="GrpoTrainer"/>.</summary>
public sealed record GrpoOptions : GrpoHyperparameters, IPolicyColumns
{
    /// <summary>The text column of prompts, in training and afterwards.</summary>
    public string PromptColumnName { get; init; } = TextGenerationTransformer.DefaultPromptColumn;

    /// <summary>The text column that the trained policy adds.</summary>
    public string CompletionColumnName { get; init; } = TextGenerationTransformer.DefaultCompletionColumn;

    /// <summary>How the trained policy completes prompts.</summary>
    /// <value>Null, the default, keeps what the model had before.</value>
    public SamplingOptions? Sampling { get; init; }

    internal override void Check(OptionProblems problems)
    {
        base.Check(problems);
        problems.RequireName(nameof(PromptColumnName), PromptColumnName);
        problems.RequireName(nameof(CompletionColumnName), CompletionColumnName);
        if (Sampling is not null)
            problems.Include(Sampling.Validate);
    }
}
