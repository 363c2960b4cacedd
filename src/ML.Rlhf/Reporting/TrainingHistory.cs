using System.Text.Json;
using System.Xml.Linq;
using ML.Rlhf.Charts;
using ML.Rlhf.Torch.Training;

namespace ML.Rlhf;

/// <summary>A number that was measured at a step.</summary>
/// <param name="Step">The step, or update, from 1.</param>
/// <param name="Value">The number.</param>
public readonly record struct MetricPoint(int Step, double Value);

/// <summary>An alarm, and the update that raised it.</summary>
/// <param name="Step">The update, from 1.</param>
/// <param name="Alarm">What looked wrong, and what was done about it.</param>
public sealed record AlarmPoint(int Step, TrainingAlarm Alarm);

/// <summary>
/// Remembers what a run reported: all numbers of <see cref="TrainingProgress.ToMetrics"/>, step by step. In a notebook it shows itself as
/// learning curves.
/// </summary>
/// <remarks>
/// It is of one run. When a run is resumed, the steps that are taken again replace those that are there; another stage begins anew. It
/// holds 16 bytes per number: 100,000 steps of PPO are about 50 MB.
/// </remarks>
[TypeFormatterSource(typeof(HtmlFormatterSource))]
public sealed class TrainingHistory : IProgress<TrainingProgress>, IHtmlDisplay
{
    private readonly Dictionary<string, List<MetricPoint>> _metrics = [];
    private readonly List<AlarmPoint> _alarms = [];

    /// <summary>The trainer; empty before the first record.</summary>
    public string Stage { get; private set; } = "";

    /// <summary>The last step that was reported; 0 before the first.</summary>
    public int Step { get; private set; }

    /// <summary>Time from the beginning of the run to <see cref="Step"/>.</summary>
    public TimeSpan Elapsed { get; private set; }

    /// <summary>Names of all that was measured, such as <c>objective/kl</c>.</summary>
    public IReadOnlyCollection<string> Metrics => _metrics.Keys;

    /// <summary>The points of a metric, by step; empty where it was not measured.</summary>
    /// <param name="metric">A name as in <see cref="TrainingProgress.ToMetrics"/>.</param>
    public IReadOnlyList<MetricPoint> this[string metric] => _metrics.TryGetValue(metric, out var points) ? points : [];

    /// <summary>The alarms of the run.</summary>
    public IReadOnlyList<AlarmPoint> Alarms => _alarms;

    /// <summary>What the run was, where it was kept on disk.</summary>
    internal RunManifest? Manifest { get; private set; }

    /// <summary>Reads the history that a run keeps in its <see cref="CheckpointOptions.Folder"/>; the run may still go on.</summary>
    /// <param name="checkpointFolder">The folder, with <c>progress.jsonl</c> and <c>run.json</c>.</param>
    /// <exception cref="FileNotFoundException">There is no history.</exception>
    /// <exception cref="FormatException">It is damaged.</exception>
    public static TrainingHistory Load(string checkpointFolder)
    {
        ArgumentException.ThrowIfNullOrWhiteSpace(checkpointFolder);
        var history = new TrainingHistory { Manifest = CheckpointFolder.ReadManifest(checkpointFolder) };
        history.Stage = history.Manifest.Stage;
        foreach (var entry in ProgressHistory.Read(checkpointFolder))
            history.Add(entry);
        return history;
    }

    /// <inheritdoc/>
    public void Report(TrainingProgress value)
    {
        ArgumentNullException.ThrowIfNull(value);
        if (value.Stage != Stage || value.Step <= Step)
            CutBefore(value.Stage == Stage ? value.Step : 0);
        Stage = value.Stage;
        Add(new ProgressEntry(value.Step, value.Elapsed, value.ToMetrics(), value is PolicyProgress policy ? policy.Alarms : []));
    }

    /// <summary>Learning curves, as a piece of HTML that needs no other file.</summary>
    public string ToHtml() => Html.Render(Html.Element(
        "div", new XAttribute("style", "display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,320px),1fr));gap:12px"),
        Curves.Of(this)));

    /// <summary>The last numbers, in a line.</summary>
    public override string ToString() => Step == 0 ? "no steps yet" : FormattableString.Invariant($"{Stage}, {Step} steps: ")
        + string.Join(", ", _metrics.Select(m => $"{m.Key} {Html.Number(m.Value[^1].Value)}"));

    private void Add(ProgressEntry entry)
    {
        (Step, Elapsed) = (entry.Step, entry.Elapsed);
        foreach (var (name, value) in entry.Metrics)
        {
            if (!_metrics.TryGetValue(name, out var points))
                _metrics[name] = points = [];
            points.Add(new MetricPoint(entry.Step, value));
        }
        _alarms.AddRange(entry.Alarms.Select(alarm => new AlarmPoint(entry.Step, alarm)));
    }

    private void CutBefore(int step)
    {
        foreach (var (name, points) in _metrics)
        {
            points.RemoveAll(point => point.Step >= step);
            if (points.Count == 0)
                _metrics.Remove(name);
        }
        _alarms.RemoveAll(point => point.Step >= step);
    }
}
