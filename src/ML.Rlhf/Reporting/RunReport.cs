using System.Globalization;
using System.Xml.Linq;
using Microsoft.ML;
using Microsoft.ML.Data;
using ML.Rlhf.Charts;
using ML.Rlhf.Torch.Native;
using ML.Rlhf.Torch.Training;

namespace ML.Rlhf;

/// <summary>
/// One HTML file that tells what was done and what came out, to keep beside a model or to send to somebody: data, options, learning
/// curves, alarms, calibration, scores, samples, timings and the environment. It needs no network and no other file.
/// </summary>
/// <example>
/// <code>
/// new RunReport("Polite answers")
///     .AddData("Preferences", ranked)
///     .AddRewardModel(rlhf.EvaluateRewardModel(reward, heldOut))
///     .AddRun(history, options)
///     .AddSamples(rlhf.CompareSamples(prompts, [("SFT", sft), ("PPO", policy)], rlhf.Rewards.FromTransformer(reward)))
///     .Save("report.html");
/// </code>
/// </example>
public sealed class RunReport
{
    private const int RowsShown = 3, CharactersShown = 300;

    private readonly string _title;
    private readonly List<XElement> _sections = [];

    /// <summary>Begins a report.</summary>
    /// <param name="title">Its headline.</param>
    /// <exception cref="ArgumentException">It is empty.</exception>
    public RunReport(string title)
    {
        ArgumentException.ThrowIfNullOrWhiteSpace(title);
        _title = title;
    }

    /// <summary>Adds what a data set looks like: its columns, the number of its rows, and the first three.</summary>
    /// <param name="name">What the report calls it.</param>
    /// <param name="data">The data; it is read to its end, to count its rows, where it does not know their number.</param>
    public RunReport AddData(string name, IDataView data)
    {
        ArgumentException.ThrowIfNullOrWhiteSpace(name);
        ArgumentNullException.ThrowIfNull(data);
        var columns = data.Schema.Where(column => !column.IsHidden).ToArray();
        var preview = data.Preview(RowsShown);
        return Add(
            name, Facts(("rows", Count(data)), ("columns", string.Join(", ", columns.Select(c => $"{c.Name}: {c.Type}")))),
            Wide(Html.Table([.. columns.Select(c => c.Name)], preview.RowView.Select(row => (IReadOnlyList<object>)
                [.. columns.Select(c => Shown(row.Values[c.Index].Value))]))));
    }

    /// <summary>Adds a run: how long it took, its learning curves, its alarms, where its time went, and its options.</summary>
    /// <param name="history">What it reported, or <see cref="TrainingHistory.Load"/> of a run that was kept on disk.</param>
    /// <param name="options">What it was run with; null for those that a loaded history knows.</param>
    /// <exception cref="ArgumentException">The history is empty.</exception>
    public RunReport AddRun(TrainingHistory history, OptimizationOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(history);
        if (history.Step == 0)
            throw new ArgumentException(
                "The history has no steps. Give it to the trainer's options as Progress before the run.", nameof(history));
        return Add(
            history.Stage, Facts([.. RunFacts(history)]), Alarms(history),
            Html.Element("div", new XAttribute("class", "charts"), Curves.Of(history), Phases(history)),
            Options(history, options));
    }

    /// <summary>Adds what a reward model is worth on held-out preferences, and whether it is as sure as it is right.</summary>
    /// <param name="metrics">What <see cref="RlhfCatalog.EvaluateRewardModel"/> measured.</param>
    public RunReport AddRewardModel(RewardModelMetrics metrics)
    {
        ArgumentNullException.ThrowIfNull(metrics);
        return Add("Reward model on held-out preferences", metrics.Content());
    }

    /// <summary>Adds what models answered to the same prompts, and how their answers score.</summary>
    /// <param name="samples">What <see cref="RlhfCatalog.CompareSamples"/> gave.</param>
    public RunReport AddSamples(SampleTable samples)
    {
        ArgumentNullException.ThrowIfNull(samples);
        return Add(
            "Samples", Html.Element("div", new XAttribute("class", "charts"), samples.Scores()), Wide(samples.Table(), "samples"));
    }

    /// <summary>Adds how the gold score went while the proxy was optimised.</summary>
    /// <param name="curve">The curve.</param>
    public RunReport AddOverOptimization(OverOptimizationCurve curve)
    {
        ArgumentNullException.ThrowIfNull(curve);
        return Add("Over-optimisation", Html.Element("div", new XAttribute("class", "charts"), curve.Chart()));
    }

    /// <summary>Writes the report, over one that is there.</summary>
    /// <param name="path">The file, such as <c>report.html</c>; its folder is made if it is not there.</param>
    /// <exception cref="IOException">It cannot be written.</exception>
    public void Save(string path)
    {
        ArgumentException.ThrowIfNullOrWhiteSpace(path);
        string full = Path.GetFullPath(path);
        Directory.CreateDirectory(Path.GetDirectoryName(full)!);
        File.WriteAllText(full, "<!DOCTYPE html>\n" + Html.Render(Page()) + "\n");
    }

    private XElement Page() => Html.Element(
        "html", new XAttribute("lang", "en"),
        Html.Element("head",
            Html.Element("meta", new XAttribute("charset", "utf-8")),
            Html.Element("meta", new XAttribute("name", "viewport"), new XAttribute("content", "width=device-width, initial-scale=1")),
            Html.Element("title", _title),
            Html.Element("style", Style())),
        Html.Element("body", Html.Element("main",
            Html.Element("h1", _title),
            Html.Element("p", new XAttribute("class", "muted"), DateTimeOffset.Now.ToString("yyyy-MM-dd HH:mm", CultureInfo.InvariantCulture)),
            _sections,
            Section("Environment", Wide(NamesAndValues(Environment()))))));

    private RunReport Add(string title, params object?[] content)
    {
        _sections.Add(Section(title, content));
        return this;
    }

    private static XElement Section(string title, params object?[] content) => Html.Element("section", Html.Element("h2", title), content);

    private static Dictionary<string, string> Environment()
    {
        LibTorch.EnsureLoaded(); // it knows the number of threads
        return RunManifest.ThisProgram();
    }

    private static string Style()
    {
        using var reader = new StreamReader(typeof(RunReport).Assembly.GetManifestResourceStream("RunReport.css")!);
        return reader.ReadToEnd();
    }

    private static IEnumerable<(string, string)> RunFacts(TrainingHistory history)
    {
        yield return ("steps", history.Step.ToString(CultureInfo.InvariantCulture));
        yield return ("time", Html.Duration(history.Elapsed));
        foreach (var (name, metric) in new[]
        {
            ("tokens/s", "tokens_per_second"), ("loss", "loss"), ("validation loss", "eval_loss"), ("score", "objective/scores"),
            ("gold score", "objective/gold_scores"), ("KL, nats", "objective/kl"), ("accuracy", "rewards/accuracies"),
        })
        {
            if (history[metric] is [.., var last])
                yield return (name, Html.Number(last.Value));
        }
        if (history["skipped_steps"] is [.., { Value: > 0 } skipped])
            yield return ("skipped steps", Html.Number(skipped.Value));
    }

    private static XElement? Alarms(TrainingHistory history) => history.Alarms.Count == 0 ? null : Html.Element(
        "ul", new XAttribute("class", "alarms"), history.Alarms.Select(point => Html.Element(
            "li", Html.Element("b", $"Update {point.Step}, {point.Alarm.Kind} ({point.Alarm.Policy}): "), point.Alarm.Message)));

    /// <summary>Where the time of the run's updates went; null where nobody measured.</summary>
    private static XElement? Phases(TrainingHistory history)
    {
        (string Name, double Seconds)[] phases = [.. new[] { "sampling", "scoring", "evaluation", "learning" }
            .Select(phase => (phase, history[$"time/{phase}"].Sum(point => point.Value)))];
        return phases.Sum(phase => phase.Seconds) > 0 ? BarChart.Draw("Where the time went, seconds", phases) : null;
    }

    private static XElement? Options(TrainingHistory history, OptimizationOptions? options)
    {
        var values = options is null ? history.Manifest?.Settings : (IEnumerable<KeyValuePair<string, string>>)OptionValues.Of(options)
            .Select(option => KeyValuePair.Create(option.Name, option.Value));
        return values is null ? null : Html.Element(
            "details", Html.Element("summary", "Options"), Wide(NamesAndValues(values.Where(option => option.Value != "null"))));
    }

    private static XElement NamesAndValues(IEnumerable<KeyValuePair<string, string>> values) =>
        Html.Table(["name", "value"], values.Select(pair => (IReadOnlyList<object>)[pair.Key, pair.Value]));

    /// <summary>A few numbers, each with its name.</summary>
    internal static XElement Facts(params (string Name, string Value)[] facts) => Html.Element(
        "dl", facts.Select(fact => Html.Element("div", Html.Element("dt", fact.Name), Html.Element("dd", fact.Value))));

    /// <summary>A table that scrolls for itself where the page is narrow.</summary>
    private static XElement Wide(XElement table, string kind = "") =>
        Html.Element("div", new XAttribute("class", $"wide {kind}".TrimEnd()), table);

    private static string Count(IDataView data)
    {
        long rows = data.GetRowCount() ?? 0;
        if (data.GetRowCount() is null)
        {
            using var cursor = data.GetRowCursor([]);
            while (cursor.MoveNext())
                rows++;
        }
        return rows.ToString("N0", CultureInfo.InvariantCulture);
    }

    private static string Shown(object? value)
    {
        string text = value switch
        {
            null => "",
            string or ReadOnlyMemory<char> => value.ToString()!,
            _ when value.GetType().Name == typeof(VBuffer<>).Name => string.Join(" | ", Values((dynamic)value)),
            IFormattable number => number.ToString(null, CultureInfo.InvariantCulture),
            _ => value.ToString()!,
        };
        return text.Length <= CharactersShown ? text : text[..CharactersShown] + "…";
    }

    private static IEnumerable<string> Values<T>(VBuffer<T> vector) => vector.DenseValues().Select(value => Shown(value));
}
