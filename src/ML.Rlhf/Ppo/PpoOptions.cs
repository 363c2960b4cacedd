namespace ML.Rlhf;

/// <summary>Options of <see cref="PpoTrainer"/>.</summary>
public sealed record PpoOptions : PpoHyperparameters
{
    /// <summary>The text column of prompts, in training and afterwards.</summary>
    public string PromptColumnName { get; init; } = TextGenerationTransformer.DefaultPromptColumn;

    /// <summary>The text column that the trained policy adds.</summary>
    public string CompletionColumnName { get; init; } = TextGenerationTransformer.DefaultCompletionColumn;

    /// <summary>The column of the reward transformer's output that holds the score: a Single, Double or Boolean.</summary>
    /// <value>"Score" by default. Not used where the reward is a function.</value>
    public string ScoreColumnName { get; init; } = RewardTransformer.DefaultScoreColumn;

    /// <summary>How the trained policy completes prompts.</summary>
    /// <value>Null, the default, keeps what the model had before.</value>
    public SamplingOptions? Sampling { get; init; }

    internal override void Check(OptionProblems problems)
    {
        base.Check(problems);
        problems.RequireName(nameof(PromptColumnName), PromptColumnName);
        problems.RequireName(nameof(CompletionColumnName), CompletionColumnName);
        problems.RequireName(nameof(ScoreColumnName), ScoreColumnName);
        if (Sampling is not null)
            problems.Include(Sampling.Validate);
    }
}
