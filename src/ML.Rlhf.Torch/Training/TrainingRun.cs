using System.Diagnostics;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Training;

/// <summary>What surrounds one training run: where it runs, its randomness, its clock, its steps, and who wants to hear of it.</summary>
internal sealed class TrainingRun(string stage, Device device, int seed, Action<TrainingProgress> report, Action<string> log,
    Action<string> warn, Action checkCanceled) : IResumable
{
    private readonly Stopwatch _clock = Stopwatch.StartNew();
    private readonly List<(string Name, Func<string> Identity)> _dependencies = [];
    private RunCheckpoints? _checkpoints;
    private TimeSpan _before;
    private long _tokens;
    private int _skippedSteps, _skippedInARow, _stepsDone;
    private bool _returnsModel, _needsValidation, _gaveUp;

    public string Stage => stage;

    public Device Device => device;

    public ulong Seed { get; } = unchecked((ulong)seed);

    /// <summary>What the run depends on beside its options, data and models.</summary>
    public IEnumerable<(string Name, string Identity)> Dependencies => _dependencies.Select(d => (d.Name, d.Identity()));

    /// <summary>Adds something that the run depends on: with another one, it cannot be resumed.</summary>
    /// <param name="name">What messages call it.</param>
    /// <param name="identity">Tells it from others; asked only where the run is kept on disk.</param>
    public void DependsOn(string name, Func<string> identity) => _dependencies.Add((name, identity));

    /// <summary>Writes a line to the log of the caller.</summary>
    public void Log(string message) => log(message);

    /// <summary>Writes a warning to the log of the caller.</summary>
    public void Warn(string message) => warn(message);

    /// <summary>Throws when somebody asked the run to stop.</summary>
    public void ThrowIfCanceled() => checkCanceled();

    /// <summary>Counts tokens towards the speed.</summary>
    public void CountTokens(long tokens) => _tokens += tokens;

    /// <summary>Time since the run began; of a resumed one, the time that its steps took.</summary>
    public TimeSpan Elapsed => _before + _clock.Elapsed;

    public double TokensPerSecond => _tokens / Math.Max(1e-9, Elapsed.TotalSeconds);

    /// <summary>
    /// The steps, from 0, that are still to be done: all of them, or those after the checkpoint that the run is resumed from. Between two
    /// steps checkpoints are written, and cancellation is seen.
    /// </summary>
    /// <param name="start">What the run begins with.</param>
    /// <param name="state">All that changes from step to step, under names of its own.</param>
    /// <exception cref="OperationCanceledException">The run was canceled, and is not to return what it has, or has nothing yet.</exception>
    /// <exception cref="InvalidOperationException">Too many steps in a row had a gradient that is not finite.</exception>
    public IEnumerable<int> Steps(RunStart start, params (string Name, IResumable? Part)[] state)
    {
        using var checkpoints = start.Options.Checkpoints is { } options ? new RunCheckpoints(options, start, this, state) : null;
        _checkpoints = checkpoints;
        _returnsModel = start.Options.WhenCanceled == CancellationAction.ReturnModel;
        _needsValidation = start.Options.Checkpoints?.Best is not null && !_returnsModel;
        for (_stepsDone = checkpoints?.Resume() ?? 0; _stepsDone < start.TotalSteps && !start.IsOver();)
        {
            if (IsCanceled())
            {
                if (ReturnsWhatItHas)
                    break;
                ThrowIfCanceled();
            }
            yield return _stepsDone;
            if (_gaveUp)
                break;
            _stepsDone++;
            checkpoints?.StepDone(_stepsDone);
            RequireFewSkips(start.Options.MaxSkippedSteps);
        }
        checkpoints?.End();
    }

    /// <summary>Whether the run was canceled, and is to return its model as far as it is.</summary>
    public bool ReturnsWhatItHas => _returnsModel && _stepsDone > 0 && IsCanceled();

    /// <summary>
    /// Takes a step that looks whether it is canceled before it changes anything. Where the run is to return what it has, the step is given
    /// up, and the run ends as it does between two steps.
    /// </summary>
    public void TakeOrGiveUp(Action step)
    {
        try
        {
            step();
        }
        catch (OperationCanceledException) when (ReturnsWhatItHas)
        {
            _gaveUp = true;
        }
    }

    /// <summary>
    /// Measures the model on held-out data. Canceled meanwhile, the step is whole without: it can be returned, or resumed after. Only where
    /// the measure decides which step is the best, a run that is resumed has to take the step again.
    /// </summary>
    /// <param name="isDue">Whether this step measures at all.</param>
    /// <param name="measure">From what it must call before each batch to the loss.</param>
    public double? Validate(bool isDue, Func<Action, double> measure)
    {
        if (!isDue)
            return null;
        try
        {
            return measure(ThrowIfCanceled);
        }
        catch (OperationCanceledException) when (!_needsValidation)
        {
            return null;
        }
    }

    /// <summary>Reports a step.</summary>
    public void Report(TrainingProgress progress)
    {
        bool isSkipped = !double.IsFinite(progress.GradientNorm);
        _skippedInARow = isSkipped ? _skippedInARow + 1 : 0;
        if (isSkipped)
            SkipStep();
        progress = progress with { SkippedSteps = _skippedSteps };
        _checkpoints?.Report(progress);
        report(progress);
    }

    /// <summary>Counts a step of the optimiser that was not taken, since its gradient was not finite.</summary>
    public void SkipStep() => _skippedSteps++;

    /// <summary>Reports a step of a supervised trainer.</summary>
    public void Report(int step, int totalSteps, double loss, double? validationLoss, double learningRate, double gradientNorm) =>
        Report(new TrainingProgress
        {
            Stage = Stage,
            Step = step,
            TotalSteps = totalSteps,
            Loss = loss,
            ValidationLoss = validationLoss,
            LearningRate = learningRate,
            GradientNorm = gradientNorm,
            TokensPerSecond = TokensPerSecond,
            Elapsed = Elapsed,
        });

    /// <summary>Differs after a step that the optimiser did not take.</summary>
    int IResumable.Version => _skippedSteps;

    void IResumable.Visit(StateVisitor state)
    {
        var elapsed = Elapsed;
        state.Value("tokens", ref _tokens);
        state.Value("elapsed", ref elapsed);
        state.Value("skippedSteps", ref _skippedSteps);
        state.Value("skippedInARow", ref _skippedInARow);
        _before = elapsed - _clock.Elapsed; // no change where it is saved
    }

    private bool IsCanceled()
    {
        try
        {
            checkCanceled();
            return false;
        }
        catch (OperationCanceledException)
        {
            return true;
        }
    }

    private void RequireFewSkips(int most)
    {
        if (_skippedInARow > most)
            throw new InvalidOperationException(
                $"{_skippedInARow} steps in a row had a gradient that is not finite (MaxSkippedSteps is {most}). None of them changed a " +
                "weight. Lower LearningRate, raise WarmupSteps, or look for extreme values in the data.");
    }
}
