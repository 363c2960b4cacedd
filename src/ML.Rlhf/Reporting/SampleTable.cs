using System.Xml.Linq;
using ML.Rlhf.Charts;

namespace ML.Rlhf;

/// <summary>What one model answered to some prompts.</summary>
/// <param name="Name">What tables and charts call the model.</param>
/// <param name="Completions">Its answers, one per prompt.</param>
/// <param name="Scores">What the answers are worth, one number each; null where nobody judged them.</param>
public sealed record ModelSamples(string Name, IReadOnlyList<string> Completions, IReadOnlyList<double>? Scores);

/// <summary>
/// What several models answered to the same prompts, such as a policy before and after PPO. Made by
/// <see cref="RlhfCatalog.CompareSamples(Microsoft.ML.IDataView, IReadOnlyList{ValueTuple{string, TextGenerationTransformer}}, Reward?, string)"/>.
/// In a notebook it shows itself as a table.
/// </summary>
[TypeFormatterSource(typeof(HtmlFormatterSource))]
public sealed class SampleTable : IHtmlDisplay
{
    private const int RowsShown = 12;

    internal SampleTable(IReadOnlyList<string> prompts, IReadOnlyList<ModelSamples> models) => (Prompts, Models) = (prompts, models);

    /// <summary>The prompts that all models answered.</summary>
    public IReadOnlyList<string> Prompts { get; }

    /// <summary>The models, in the order in which they were named.</summary>
    public IReadOnlyList<ModelSamples> Models { get; }

    /// <summary>The first twelve prompts with their answers, and where they have scores a histogram of all, as a piece of HTML.</summary>
    public string ToHtml() => Html.Render(Html.Element("div", Scores(), Table()));

    /// <summary>How many prompts and models there are, and the mean score of each model.</summary>
    public override string ToString() => FormattableString.Invariant($"{Prompts.Count} prompts; ") + string.Join(", ", Models.Select(
        model => model.Name + (model.Scores is null ? "" : $" {Html.Number(model.Scores.Average())}")));

    /// <summary>A histogram of the scores; null without any.</summary>
    internal XElement? Scores() => Models.All(model => model.Scores is null) ? null : Histogram.Draw(
        $"Scores of {Prompts.Count} answers", "score",
        [.. Models.Where(model => model.Scores is not null)
            .Select(model => ($"{model.Name}, mean {Html.Number(model.Scores!.Average())}", model.Scores!))]);

    internal XElement Table() => Html.Table(
        ["Prompt", .. Models.Select(model => model.Name)],
        Prompts.Take(RowsShown).Select((prompt, row) => (IReadOnlyList<object>)
            [Preformatted(prompt), .. Models.Select(model => Answer(model, row))]));

    private static XElement Answer(ModelSamples model, int row) => Html.Element(
        "div", Html.Attribute("data-name", model.Name), Preformatted(model.Completions[row]),
        model.Scores is null ? null : Html.Element(
            "small", new XAttribute("style", "opacity:.7"), FormattableString.Invariant($"score {model.Scores[row]:F2}")));

    private static XElement Preformatted(string text) =>
        Html.Element("div", new XAttribute("style", "white-space:pre-wrap;overflow-wrap:anywhere"), text);
}
