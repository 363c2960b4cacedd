using Microsoft.ML;

namespace ML.Rlhf;

/// <summary>Options of <see cref="RewardModelTrainer"/>.</summary>
public sealed record RewardModelOptions : RewardModelHyperparameters
{
    /// <summary>The text column of prompts, in training and afterwards.</summary>
    public string PromptColumnName { get; init; } = TextGenerationTransformer.DefaultPromptColumn;

    /// <summary>The text column of the answers that people preferred.</summary>
    public string ChosenColumnName { get; init; } = "Chosen";

    /// <summary>The text column of the answers that they preferred less.</summary>
    public string RejectedColumnName { get; init; } = "Rejected";

    /// <summary>The text column of answers that the trained model scores.</summary>
    public string CompletionColumnName { get; init; } = TextGenerationTransformer.DefaultCompletionColumn;

    /// <summary>The column of scores that the trained model adds.</summary>
    public string ScoreColumnName { get; init; } = RewardTransformer.DefaultScoreColumn;

    /// <summary>Held-out preferences, with the same columns.</summary>
    /// <value>Null, the default, measures nothing.</value>
    public IDataView? ValidationData { get; init; }

    internal override void Check(OptionProblems problems)
    {
        base.Check(problems);
        problems.RequireName(nameof(PromptColumnName), PromptColumnName);
        problems.RequireName(nameof(ChosenColumnName), ChosenColumnName);
        problems.RequireName(nameof(RejectedColumnName), RejectedColumnName);
        problems.RequireName(nameof(CompletionColumnName), CompletionColumnName);
        problems.RequireName(nameof(ScoreColumnName), ScoreColumnName);
    }
}
