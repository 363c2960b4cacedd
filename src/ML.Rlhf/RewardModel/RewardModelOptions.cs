using Microsoft.ML;

namespace ML.Rlhf;

/// <summary>Options of <see cref="RewardModelTrainer"/>.</summary>
public sealed record RewardModelOptions : RewardModelHyperparameters
{
    /// <summary>The text column of prompts, in training and afterwards.</summary>
    public string PromptColumnName { get; init; } = TextGenerationTransformer.DefaultPromptColumn;

    /// <summary>The text column of the answers that people preferred, where preferences are pairs.</summary>
    public string ChosenColumnName { get; init; } = "Chosen";

    /// <summary>The text column of the answers that they preferred less.</summary>
    public string RejectedColumnName { get; init; } = "Rejected";

    /// <summary>
    /// The column with a vector of texts: all answers to a prompt that people ranked. Any number of them, and not the same for each row.
    /// </summary>
    /// <value>Null, the default, takes pairs: <see cref="ChosenColumnName"/> and <see cref="RejectedColumnName"/>.</value>
    public string? AnswersColumnName { get; init; }

    /// <summary>
    /// The column with a vector of numbers: the place of each answer. <b>Lower is better</b>, and equal places are a tie, from which
    /// nothing is learned.
    /// </summary>
    /// <value>Null by default. With <see cref="AnswersColumnName"/>, either this or <see cref="RatingsColumnName"/>.</value>
    public string? RanksColumnName { get; init; }

    /// <summary>
    /// The column with a vector of numbers: how people rated each answer. <b>Higher is better</b>. Only the order counts, and only
    /// among the answers to one prompt; equal ratings are a tie.
    /// </summary>
    /// <value>Null by default. With <see cref="AnswersColumnName"/>, either this or <see cref="RanksColumnName"/>.</value>
    public string? RatingsColumnName { get; init; }

    /// <summary>
    /// The column with a Single of at least 0 that a row's loss is multiplied with, such as how sure the labeler was. It should be near 1
    /// on average: it multiplies the gradient, too.
    /// </summary>
    /// <value>Null, the default, lets all rows count the same.</value>
    public string? WeightColumnName { get; init; }

    /// <summary>
    /// The column with a Single by how much the better answer should win (all better answers of a ranking); it is subtracted from the
    /// difference of the rewards. Larger where labelers were sure (Touvron et al. 2023, eq. 2).
    /// </summary>
    /// <value>Null, the default, is 0 everywhere.</value>
    public string? MarginColumnName { get; init; }

    /// <summary>The text column of answers that the trained model scores.</summary>
    public string CompletionColumnName { get; init; } = TextGenerationTransformer.DefaultCompletionColumn;

    /// <summary>The column of scores that the trained model adds.</summary>
    public string ScoreColumnName { get; init; } = RewardTransformer.DefaultScoreColumn;

    /// <summary>Held-out preferences, with the same columns.</summary>
    /// <value>Null, the default, measures nothing.</value>
    public IDataView? ValidationData { get; init; }

    /// <summary>
    /// What <see cref="ScoreNormalization.Demonstrations"/> gives a mean score of 0: data with <see cref="PromptColumnName"/> and
    /// <see cref="CompletionColumnName"/>.
    /// </summary>
    /// <value>Null by default, and with every other <see cref="RewardModelHyperparameters.Normalization"/>.</value>
    public IDataView? Demonstrations { get; init; }

    /// <summary>The columns that preferences are read from.</summary>
    internal RankingColumns PreferenceColumns => new(PromptColumnName, ChosenColumnName, RejectedColumnName)
    {
        Answers = AnswersColumnName,
        Ranks = RanksColumnName,
        Ratings = RatingsColumnName,
        Weight = WeightColumnName,
        Margin = MarginColumnName,
    };

    internal override void Check(OptionProblems problems)
    {
        base.Check(problems);
        PreferenceColumns.Check(problems);
        problems.RequireName(nameof(CompletionColumnName), CompletionColumnName);
        problems.RequireName(nameof(ScoreColumnName), ScoreColumnName);
        bool needed = Normalization == ScoreNormalization.Demonstrations;
        problems.Require(
            needed == Demonstrations is not null, nameof(Demonstrations), Demonstrations is null ? null : "given",
            (needed ? "data with prompts and completions" : "null") + $" when Normalization is {Normalization}");
    }
}
