namespace ML.Rlhf;

/// <summary>
/// Shows a run on the console: as a bar that moves where the console is a terminal, as a line now and then where it is redirected to a file
/// or a notebook. Alarms get a line of their own.
/// </summary>
/// <remarks>Of a run that is not shown live, the steps that end a tenth of the way or measure the validation loss are shown.</remarks>
public sealed class ConsoleProgress : IProgress<TrainingProgress>
{
    private const int TitleWidth = 12, BarWidth = 20, PlainLines = 10;
    private static readonly TimeSpan s_redraw = TimeSpan.FromSeconds(0.1);

    private readonly string? _title;
    private readonly bool _isLive;
    private readonly TextWriter? _writer;
    private readonly TimeProvider _time;
    private readonly Func<int> _width;
    private long _drawnAt;
    private int _drawnLength;

    /// <summary>Makes a reporter, which may serve several runs, one after another.</summary>
    /// <param name="title">What each line begins with; null for <see cref="TrainingProgress.Stage"/>.</param>
    public ConsoleProgress(string? title = null)
        : this(title, !Console.IsOutputRedirected && Environment.GetEnvironmentVariable("TERM") != "dumb", null, TimeProvider.System,
            () => Console.WindowWidth)
    {
    }

    /// <param name="title">What each line begins with.</param>
    /// <param name="isLive">Whether a carriage return goes back to the beginning of the line.</param>
    /// <param name="writer">Where to write; null for the console, whatever it is at that moment.</param>
    /// <param name="time">When it is.</param>
    /// <param name="width">Columns of the terminal; 0 where that is not known.</param>
    internal ConsoleProgress(string? title, bool isLive, TextWriter? writer, TimeProvider time, Func<int> width) =>
        (_title, _isLive, _writer, _time, _width) = (title, isLive, writer, time, width);

    /// <inheritdoc/>
    public void Report(TrainingProgress value)
    {
        ArgumentNullException.ThrowIfNull(value);
        var alarms = value is PolicyProgress policy ? policy.Alarms : [];
        if (_isLive)
            ReportLive(value, mustShow: alarms.Count > 0);
        else if (IsMilestone(value))
            Writer.WriteLine($"{Title(value)} {ProgressLine.ForConsole(value)}");
        foreach (var alarm in alarms)
        {
            EndLine();
            Writer.WriteLine($"{Title(value)} warning: {alarm.Message}");
        }
    }

    private TextWriter Writer => _writer ?? Console.Out;

    private string Title(TrainingProgress p) => (_title ?? p.Stage).PadRight(TitleWidth);

    private static bool IsMilestone(TrainingProgress p) => p.ValidationLoss is not null || p.Step == p.TotalSteps
        || (long)p.Step * PlainLines / p.TotalSteps != (p.Step - 1L) * PlainLines / p.TotalSteps;

    private void ReportLive(TrainingProgress p, bool mustShow)
    {
        bool isLast = p.Step == p.TotalSteps;
        if (!isLast && !mustShow && _drawnLength > 0 && _time.GetElapsedTime(_drawnAt) < s_redraw)
            return;
        _drawnAt = _time.GetTimestamp();
        int done = (int)((long)p.Step * BarWidth / p.TotalSteps), columns = _width() is > 0 and var width ? width : 80;
        string line = $"{Title(p)} [{new string('=', done)}{new string(' ', BarWidth - done)}] {ProgressLine.ForConsole(p)}";
        line = line.Length < columns ? line : line[..(columns - 1)]; // a full line would wrap, and the next one stand below it
        Writer.Write("\r" + line.PadRight(_drawnLength));
        _drawnLength = line.Length;
        if (isLast)
            EndLine();
    }

    private void EndLine()
    {
        if (_drawnLength > 0)
            Writer.WriteLine();
        _drawnLength = 0;
    }
}
