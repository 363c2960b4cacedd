using System.Diagnostics;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Training;

/// <summary>
/// Keeps a run on disk: resumes it, writes a checkpoint when one is due or the run ends, remembers the best one and the history.
/// </summary>
internal sealed class RunCheckpoints : IResumable, IDisposable
{
    private readonly CheckpointOptions _options;
    private readonly TrainingRun _run;
    private readonly (string Name, IResumable? Part)[] _state;
    private readonly CheckpointFolder _folder;
    private readonly RunManifest _manifest;
    private ProgressHistory? _history;
    private long _historyBytes;
    private (double Value, int Step)? _best, _bestBefore;
    private string? _bestOf; // the metric that it is the best of
    private bool _isBest, _isWriting; // still writing at the end: it failed
    private int _step, _writtenStep, _version; // of step 0 nothing is written: it is what the run begins with
    private long _written = Stopwatch.GetTimestamp();

    /// <param name="options">Validated.</param>
    /// <param name="start">What the run begins with.</param>
    /// <param name="run">The run.</param>
    /// <param name="state">All that changes while it goes on, under names of its own.</param>
    public RunCheckpoints(CheckpointOptions options, RunStart start, TrainingRun run, (string Name, IResumable? Part)[] state)
    {
        _options = options;
        _run = run;
        _state = state;
        _folder = new CheckpointFolder(options.Folder, run);
        try
        {
            _manifest = RunManifest.Of(start, run);
        }
        catch
        {
            _folder.Dispose();
            throw;
        }
    }

    /// <summary>Gives the run back what it was at its newest checkpoint, if it has one.</summary>
    /// <returns>Steps that were done.</returns>
    /// <exception cref="InvalidOperationException">The checkpoint belongs to another run, or none of them can be used.</exception>
    public int Resume()
    {
        string historyFolder = _folder.FullPath;
        if (_folder.Find(_options.Resume) is { } checkpoint)
        {
            _manifest.RequireSameAs(checkpoint.Run, checkpoint.Folder, _options.AllowedChanges);
            if (_manifest.ChangedSurroundings(checkpoint.Run) is { } changes)
                _run.Warn(changes);
            checkpoint.Restore(Visit);
            _step = checkpoint.Step;
            if (checkpoint.Folder == _folder[_step])
                _writtenStep = _step;
            else
                historyFolder = Path.GetDirectoryName(Path.GetFullPath(checkpoint.Folder))!;
            _run.Log($"Resumed after step {_step}, from '{checkpoint.Folder}'.");
        }
        string? metric = _options.Best?.ToString();
        if (_best is { } best && (_bestOf != metric || !Directory.Exists(_folder[best.Step])))
            _best = null;
        _bestOf = metric;
        _folder.WriteManifest(_manifest);
        _history = new ProgressHistory(_folder.FullPath, historyFolder, _historyBytes);
        _version = Version;
        return _step;
    }

    /// <summary>Takes in what a step reported.</summary>
    public void Report(TrainingProgress progress)
    {
        _history!.Add(progress);
        if (_options.Best is not { } metric || !progress.ToMetrics().TryGetValue(metric.Name, out double value) || !double.IsFinite(value))
            return;
        _isBest = _best is not { } best || (metric.HigherIsBetter ? value > best.Value : value < best.Value);
        if (_isBest)
            (_bestBefore, _best) = (_best, (value, progress.Step));
    }

    /// <summary>A step is done; where a checkpoint is due, it is written.</summary>
    public void StepDone(int step)
    {
        _step = step;
        _version = Version;
        if (step % _options.EverySteps == 0 || _isBest
            || (_options.Every != Timeout.InfiniteTimeSpan && Stopwatch.GetElapsedTime(_written) >= _options.Every))
            Write();
        _isBest = false;
    }

    /// <summary>The run is over: leaves its last checkpoint, and gives it the weights of its best one.</summary>
    public void End()
    {
        if (_writtenStep < _step && _version == Version) // a step may have been given up
            Write();
        if (_options.Best is not { } metric)
            return;
        if (_best is not { } best)
        {
            _run.Warn(
                $"No step reported '{metric.Name}', so the run ends with its last weights. Give ValidationData for eval_loss; " +
                $"{nameof(TrainingProgress)}.{nameof(TrainingProgress.ToMetrics)} has all names.");
            return;
        }
        RunCheckpoint checkpoint;
        try
        {
            checkpoint = RunCheckpoint.Open(_folder[best.Step]);
        }
        catch (FormatException e)
        {
            _run.Warn($"{e.Message} It was the best one; the run ends with its last weights instead.");
            return;
        }
        checkpoint.Restore(Visit);
        _run.Log(FormattableString.Invariant($"The run ends with the weights of step {best.Step}: {metric.Name} was {best.Value:G6}."));
    }

    /// <summary>
    /// Leaves a checkpoint of a run that was canceled or failed, if its state is still the one after its last whole step. A failure to do
    /// so is not to hide the one that ended the run.
    /// </summary>
    public void Dispose()
    {
        try
        {
            if (_history is not null && !_isWriting && _writtenStep < _step && _version == Version)
                Write();
        }
        catch (IOException e)
        {
            _run.Warn(e.Message);
        }
        _history?.Dispose();
        _folder.Dispose();
    }

    public int Version => _state.Aggregate(
        ((IResumable)_run).Version, (all, part) => unchecked(all * 1_000_003 + (part.Part?.Version ?? 0)));

    public void Visit(StateVisitor state)
    {
        state.Value("step", ref _step);
        state.Value("best", ref _best);
        state.Value("bestOf", ref _bestOf);
        state.Value("historyBytes", ref _historyBytes);
        state.Part("run", _run);
        foreach (var (name, part) in _state)
            state.Part(name, part);
    }

    private void Write()
    {
        if (!_state.All(part => part.Part?.IsFinite ?? true))
        {
            _run.Warn($"Step {_step} left weights that are not finite: no checkpoint of it is written.");
            if (_isBest)
                _best = _bestBefore;
            return;
        }
        _isWriting = true;
        _historyBytes = _history!.Flush();
        using (no_grad())
            RunCheckpoint.Write(_folder[_step], _step, _manifest, Visit);
        _isWriting = false;
        _writtenStep = _step;
        _written = Stopwatch.GetTimestamp();
        _folder.Prune(_options.Keep, _best?.Step);
    }
}
