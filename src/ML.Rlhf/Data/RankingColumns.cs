using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;
using ML.Rlhf.Bridge;

namespace ML.Rlhf;

/// <summary>One row of preferences.</summary>
/// <param name="Prompt">What was asked.</param>
/// <param name="Answers">The answers that people compared.</param>
/// <param name="Ranks">The place of each: lower is better, equal is a tie.</param>
/// <param name="Weight">How much the row counts.</param>
/// <param name="Margin">By how much the better answers should win.</param>
internal sealed record RankedRow(string Prompt, string[] Answers, double[] Ranks, float Weight, float Margin);

/// <summary>
/// The columns that hold preferences: chosen and rejected answers or, where <see cref="Answers"/> is not null, a vector of answers with
/// their ranks or their ratings.
/// </summary>
internal sealed record RankingColumns(string Prompt, string Chosen, string Rejected)
{
    public string? Answers { get; init; }

    public string? Ranks { get; init; }

    public string? Ratings { get; init; }

    public string? Weight { get; init; }

    public string? Margin { get; init; }

    /// <summary>Adds what is wrong with the choice of columns.</summary>
    public void Check(OptionProblems problems)
    {
        problems.RequireName(nameof(RewardModelOptions.PromptColumnName), Prompt);
        problems.RequireName(nameof(RewardModelOptions.ChosenColumnName), Chosen);
        problems.RequireName(nameof(RewardModelOptions.RejectedColumnName), Rejected);
        foreach (var (option, name) in new[]
        {
            (nameof(RewardModelOptions.AnswersColumnName), Answers), (nameof(RewardModelOptions.RanksColumnName), Ranks),
            (nameof(RewardModelOptions.RatingsColumnName), Ratings), (nameof(RewardModelOptions.WeightColumnName), Weight),
            (nameof(RewardModelOptions.MarginColumnName), Margin),
        })
        {
            if (name is not null)
                problems.RequireName(option, name);
        }
        string? given = Ranks is null || Ratings is null ? Ranks ?? Ratings : $"{Ranks}, {Ratings}";
        problems.Require(
            Answers is null ? given is null : Ranks is null != Ratings is null,
            "RanksColumnName, RatingsColumnName", given,
            Answers is null ? "null, for there is no AnswersColumnName" : "one of the two, for there is an AnswersColumnName");
    }

    /// <summary>Checks that the columns are there and hold what they should.</summary>
    /// <param name="host">The host that errors go through.</param>
    /// <param name="schema">The data's shape.</param>
    /// <param name="of">What comes before a role in an error: "validation ".</param>
    /// <exception cref="ArgumentOutOfRangeException">A column is missing or holds something else.</exception>
    public void Require(IExceptionContext host, SchemaShape schema, string of = "")
    {
        TextColumns.RequireText(host, schema, of + "prompt", Prompt);
        if (Answers is not null)
        {
            TextColumns.RequireTexts(host, schema, of + "answers", Answers);
            TextColumns.RequireNumbers(host, schema, of + (Ranks is null ? "ratings" : "ranks"), (Ranks ?? Ratings)!);
        }
        else
        {
            TextColumns.RequireText(host, schema, of + "chosen", Chosen);
            TextColumns.RequireText(host, schema, of + "rejected", Rejected);
        }
        if (Weight is not null)
            TextColumns.RequireSingle(host, schema, of + "weight", Weight);
        if (Margin is not null)
            TextColumns.RequireSingle(host, schema, of + "margin", Margin);
    }

    /// <summary>Streams the rows; nothing but these columns is read.</summary>
    /// <param name="data">Data that <see cref="Require"/> let pass.</param>
    /// <param name="checkCanceled">Called before each row; throws to stop.</param>
    /// <exception cref="InvalidOperationException">A number cannot be what it is for; the message names the row.</exception>
    public IEnumerable<RankedRow> Read(IDataView data, Action checkCanceled)
    {
        string?[] names = Answers is null ? [Prompt, Chosen, Rejected, Weight, Margin] : [Prompt, Answers, Ranks, Ratings, Weight, Margin];
        using var cursor = data.GetRowCursor(names.OfType<string>().Distinct().Select(name => data.Schema[name]));
        var prompt = TextColumns.Text(cursor, Prompt);
        var (answers, ranks) = Answers is null ? ReadPairs(cursor) : ReadRankings(cursor);
        Func<float> weight = Weight is null ? () => 1 : TextColumns.Single(cursor, Weight),
            margin = Margin is null ? () => 0 : TextColumns.Single(cursor, Margin);

        while (TextColumns.MoveNext(cursor, checkCanceled))
        {
            var row = new RankedRow(prompt(), answers(), ranks(), weight(), margin());
            Check(row, cursor.Position + 1);
            yield return row;
        }
    }

    private (Func<string[]> Answers, Func<double[]> Ranks) ReadPairs(DataViewRow row)
    {
        Func<string> chosen = TextColumns.Text(row, Chosen), rejected = TextColumns.Text(row, Rejected);
        return (() => [chosen(), rejected()], () => [0, 1]);
    }

    private (Func<string[]> Answers, Func<double[]> Ranks) ReadRankings(DataViewRow row)
    {
        var answers = TextColumns.Texts(row, Answers!);
        var numbers = TextColumns.Numbers(row, (Ranks ?? Ratings)!);
        return (answers, Ranks is not null ? numbers : () => Array.ConvertAll(numbers(), rating => -rating));
    }

    private void Check(RankedRow row, long number)
    {
        string what = Ranks is null ? "ratings" : "ranks";
        if (row.Answers.Length != row.Ranks.Length)
            throw new InvalidOperationException(
                $"Row {number} has {row.Answers.Length} answers in column '{Answers}', but {row.Ranks.Length} {what} in column " +
                $"'{Ranks ?? Ratings}'. Give each answer its own.");
        if (row.Ranks.Any(double.IsNaN))
            throw new InvalidOperationException(
                $"Row {number} has NaN among the {what} in column '{Ranks ?? Ratings}'. Leave the answer out, or rank it.");
        if (!(row.Weight >= 0 && float.IsFinite(row.Weight)))
            throw new InvalidOperationException(FormattableString.Invariant(
                $"Row {number} has weight {row.Weight} in column '{Weight}', but weights are finite numbers of at least 0."));
        if (!float.IsFinite(row.Margin))
            throw new InvalidOperationException(FormattableString.Invariant(
                $"Row {number} has margin {row.Margin} in column '{Margin}', but margins are finite numbers."));
    }
}
