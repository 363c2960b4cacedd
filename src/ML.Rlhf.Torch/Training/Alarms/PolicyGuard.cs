using System.Globalization;

namespace ML.Rlhf.Torch.Training;

/// <summary>
/// Acts on the alarms of a run: warns, ends it, or goes back to the weights that sampled the last healthy responses. A loop learns from
/// each rollout through it, reports its alarms, and looks whether the run is over.
/// </summary>
internal sealed class PolicyGuard : IResumable, IDisposable
{
    private const int RollBacksThatEnd = 3;
    private const double LargestDriftInFloat32 = 1e-3, LargestDriftInBFloat16 = 0.1;

    private readonly TrainingRun _run;
    private readonly double _largestDrift;
    private readonly AdamW[] _optimizers;
    private readonly PolicyMonitor _monitor;
    private readonly TrainingSnapshot? _lastGood;
    private readonly bool _ignoresNonFinite;
    private readonly List<TrainingAlarm> _alarms = [];
    private readonly List<string> _warnings = [];
    private int _update = -1, _rollBacks;
    private double _learningRateFactor = 1;
    private bool _hasWarnedOfDrift, _isOver;
    private int? _lastGoodUpdate, _lastNonFinite;

    /// <param name="options">What to watch for, and what to do then.</param>
    /// <param name="run">Hears the warnings.</param>
    /// <param name="precision">What the policy computes in: how far rounding may go.</param>
    /// <param name="average">The average of the weights, if there is one.</param>
    /// <param name="kl">What steers β, if anything does.</param>
    /// <param name="optimizers">The optimisers of everything that learns: they know what to go back to.</param>
    public PolicyGuard(
        PolicyHyperparameters options, TrainingRun run, Precision precision, WeightAverage? average, KlController? kl,
        params AdamW?[] optimizers)
    {
        _run = run;
        _largestDrift = precision == Precision.Float32 ? LargestDriftInFloat32 : LargestDriftInBFloat16;
        _optimizers = [.. optimizers.OfType<AdamW>()];
        _monitor = new PolicyMonitor(options);
        _lastGood = options.Alarms.MayGoBack ? new TrainingSnapshot([average, kl, .. _optimizers]) : null;
        _ignoresNonFinite = options.Alarms.PolicyOf(AlarmKind.NonFinite) == AlarmPolicy.Ignore;
    }

    /// <summary>What is left of the learning rate: going back halves it.</summary>
    public double LearningRateFactor => _learningRateFactor;

    /// <summary>Whether the run must end now, with the weights that it has.</summary>
    public bool IsOver => _isOver;

    public int Version => _update;

    /// <summary>Alarms of this update.</summary>
    public IReadOnlyList<TrainingAlarm> Alarms => [.. _alarms];

    /// <summary>
    /// Looks at the responses of an update. Where they are healthy, their weights are the ones to go back to; the optimiser steps are made,
    /// and looked at.
    /// </summary>
    /// <param name="update">From 0.</param>
    /// <param name="measures">The responses.</param>
    /// <param name="statistics">Measures the steps.</param>
    /// <param name="steps">Makes them.</param>
    /// <returns>Whether steps were made that stand: they were not taken back.</returns>
    /// <exception cref="NonFiniteGradientException">A gradient is not finite, and the alarm is ignored.</exception>
    /// <exception cref="InvalidOperationException">Something is not finite in a second update in a row.</exception>
    public bool Learn(int update, RolloutMeasures measures, UpdateStatistics statistics, Action steps)
    {
        _update = update;
        _alarms.Clear();
        WarnOfDrift(statistics.LogProbDrift);
        double norm = Math.Sqrt(_optimizers.Sum(o => Math.Pow(o.WeightNorm(), 2)));
        if (!Act(_monitor.AfterRollout(measures with { WeightNorm = norm })))
            return false;
        _lastGood?.Take();
        _lastGoodUpdate = update;
        int rollBacks = _rollBacks;
        try
        {
            steps();
        }
        catch (NonFiniteGradientException e) when (!_ignoresNonFinite)
        {
            _run.SkipStep();
            Act(_monitor.NonFiniteGradient(e.Norm));
            return statistics.OptimizerSteps > 0 && _rollBacks == rollBacks;
        }
        Act(_monitor.AfterSteps(statistics.PolicyClipFraction, statistics.RatioMean, statistics.Loss));
        return statistics.OptimizerSteps > 0 && _rollBacks == rollBacks;
    }

    /// <summary>Warns of this update's alarms. A listener is a user's code: no dispose scope may be open.</summary>
    public void Warn()
    {
        foreach (string warning in _warnings)
            _run.Warn(warning);
        _warnings.Clear();
    }

    public void Visit(StateVisitor state)
    {
        state.Value("update", ref _update);
        state.Value("rollBacks", ref _rollBacks);
        state.Value("learningRateFactor", ref _learningRateFactor);
        state.Value("isOver", ref _isOver);
        state.Value("hasWarnedOfDrift", ref _hasWarnedOfDrift);
        state.Value("lastGoodUpdate", ref _lastGoodUpdate);
        state.Value("lastNonFinite", ref _lastNonFinite);
        state.Part("lastGood", _lastGood);
        state.Part("monitor", _monitor);
    }

    public void Dispose() => _lastGood?.Dispose();

    /// <summary>Does what the strictest of the alarms asks for.</summary>
    /// <returns>Whether the run may go on from where it is.</returns>
    private bool Act(IReadOnlyList<TrainingAlarm> alarms)
    {
        bool stops = alarms.Any(a => a.Policy == AlarmPolicy.Stop), rollsBack = !stops && alarms.Any(a => a.Policy == AlarmPolicy.RollBack);
        if (rollsBack)
        {
            _learningRateFactor /= 2;
            stops = ++_rollBacks == RollBacksThatEnd;
        }
        if (stops || rollsBack)
            _lastGood!.Restore();
        _isOver = stops;

        foreach (var alarm in alarms)
        {
            bool isOnlyLogged = alarm.Policy == AlarmPolicy.Log;
            _alarms.Add(stops && !isOnlyLogged ? alarm with { Policy = AlarmPolicy.Stop } : alarm);
            _warnings.Add($"Update {_update + 1}: {alarm.Message}{(isOnlyLogged ? "" : Consequence())}");
            if (alarm.Kind == AlarmKind.NonFinite)
                RequireFiniteBefore(alarm);
        }
        return !stops && !rollsBack && _lastNonFinite != _update;
    }

    /// <summary>Where going on without going back did not help, the run must not go on silently.</summary>
    private void RequireFiniteBefore(TrainingAlarm alarm)
    {
        if (alarm.Policy == AlarmPolicy.Log && _lastNonFinite == _update - 1)
            throw new InvalidOperationException(
                $"Two updates in a row met numbers that are not finite. {alarm.Message} Alarms.Policy RollBack goes back by itself.");
        _lastNonFinite = _update;
    }

    /// <summary>Sampling and learning must see the same distribution. Once is enough: what causes it stays.</summary>
    private void WarnOfDrift(double drift)
    {
        if (drift <= _largestDrift || _hasWarnedOfDrift)
            return;
        _hasWarnedOfDrift = true;
        _warnings.Add(string.Create(CultureInfo.InvariantCulture,
            $"Update {_update + 1}: a token's log-probability was {drift:G3} off while it was sampled, where rounding stays below " +
            $"{_largestDrift}. Low-precision arithmetic of a device may do that; otherwise, please report it."));
    }

    private string Consequence()
    {
        string weights = _lastGoodUpdate is { } update ? $"the weights that sampled update {update + 1}" : "the weights that it began with";
        return IsOver
            ? $" The run ends with {weights}{(_rollBacks == RollBacksThatEnd ? $", after going back {RollBacksThatEnd} times" : "")}."
            : string.Create(CultureInfo.InvariantCulture,
                $" The run goes back to {weights}, and goes on at {LearningRateFactor} of the learning rate.");
    }
}
