using static System.Globalization.CultureInfo;

namespace ML.Rlhf.Torch.Training;

/// <summary>Numbers of one kind: how many, their mean, and the sum of their squared distances from it.</summary>
internal readonly record struct Sample(long Count, double Mean, double SquaredDistances)
{
    public double Deviation => Math.Sqrt(SquaredDistances / Count);

    /// <summary>Standard error of the mean.</summary>
    public double Error => Deviation / Math.Sqrt(Count);

    public static Sample Of(IReadOnlyCollection<double> values)
    {
        double mean = values.Average();
        return new Sample(values.Count, mean, values.Sum(x => (x - mean) * (x - mean)));
    }

    /// <summary>Both samples as one (Chan, Golub and LeVeque 1979).</summary>
    public static Sample operator +(Sample a, Sample b)
    {
        long count = a.Count + b.Count;
        double distance = b.Mean - a.Mean;
        return new Sample(
            count, a.Mean + distance * b.Count / count,
            a.SquaredDistances + b.SquaredDistances + distance * distance * a.Count * b.Count / count);
    }
}

/// <summary>What is watched of the responses of an update, or of several.</summary>
/// <param name="Kl">Σ_t (log π − log π_ref) of each response.</param>
/// <param name="Entropy">Mean per token; of several updates, that of the last.</param>
/// <param name="Length">Tokens of each response.</param>
/// <param name="Ended">1 for each response that ended, 0 for the others.</param>
/// <param name="Score">Score of each response.</param>
/// <param name="ScoreRange">The lowest and the highest score.</param>
/// <param name="GoldScore">Gold score of each response; null without a gold reward.</param>
internal sealed record RolloutMeasures(
    Sample Kl, double Entropy, Sample Length, Sample Ended, Sample Score, (double Lowest, double Highest) ScoreRange, Sample? GoldScore)
{
    /// <summary>L2 norm of everything that learns.</summary>
    public double WeightNorm { get; init; }

    public bool IsFinite => double.IsFinite(Kl.Mean) && double.IsFinite(Entropy) && double.IsFinite(WeightNorm);

    /// <summary>Measures an update.</summary>
    /// <param name="statistics">After <see cref="UpdateStatistics.MeasureRollout"/>.</param>
    /// <param name="episodes">The responses.</param>
    /// <param name="scores">What they are learned from.</param>
    /// <param name="goldScores">What they are watched with, if anything.</param>
    public static RolloutMeasures Of(UpdateStatistics statistics, Episode[] episodes, double[] scores, double[]? goldScores) => new(
        Sample.Of(statistics.EpisodeKls), statistics.Entropy, Sample.Of([.. episodes.Select(e => (double)e.Response.Length)]),
        Sample.Of([.. episodes.Select(e => e.Ended ? 1.0 : 0.0)]), Sample.Of(scores), (scores.Min(), scores.Max()),
        goldScores is null ? null : Sample.Of(goldScores));

    public static RolloutMeasures operator +(RolloutMeasures a, RolloutMeasures b) => new(
        a.Kl + b.Kl, b.Entropy, a.Length + b.Length, a.Ended + b.Ended, a.Score + b.Score,
        Cover(a.ScoreRange, b.ScoreRange), a.GoldScore + b.GoldScore);

    /// <summary>The range that holds both.</summary>
    public static (double Lowest, double Highest) Cover((double Lowest, double Highest) a, (double Lowest, double Highest) b) =>
        (Math.Min(a.Lowest, b.Lowest), Math.Max(a.Highest, b.Highest));
}

/// <summary>
/// Looks for what <see cref="AlarmKind"/> lists. It measures and words; what to do about an alarm is <see cref="PolicyGuard"/>'s.
/// </summary>
internal sealed class PolicyMonitor(PolicyHyperparameters options) : IResumable
{
    /// <summary>
    /// Responses that the slow alarms compare, at least: two updates of the default size, so that a normal deviation is known to 6 %.
    /// </summary>
    private const int WindowSize = 128;

    /// <summary>
    /// How many standard errors are no accident. A run looks after each update, and compares with the best of all windows before: with 4,
    /// chance alone raised alarms within 100,000 episodes.
    /// </summary>
    private const double Significance = 5;

    /// <summary>Scores have collapsed when their deviation is at most this part of the first one.</summary>
    private const double CollapsedPart = 0.05;

    /// <summary>
    /// A logged alarm is new again when it was not seen for more updates than these: a number at its limit must not flood the log.
    /// </summary>
    private const int QuietUpdates = 10;

    private readonly AlarmOptions _alarms = options.Alarms;
    private List<RolloutMeasures> _recent = []; // the updates of the last window and of the one before it, oldest first
    private Dictionary<AlarmKind, int> _lastSeen = [];
    private RolloutMeasures? _first, _bestEnded, _bestGold;
    private (double Lowest, double Highest) _scores = (double.PositiveInfinity, double.NegativeInfinity);
    private int _update = -1;

    /// <summary>Updates that are kept for comparison: two windows, however long the run is.</summary>
    internal int Remembered => _recent.Count;

    public void Visit(StateVisitor state)
    {
        state.Value("recent", ref _recent);
        state.Value("lastSeen", ref _lastSeen);
        state.Value("first", ref _first);
        state.Value("bestEnded", ref _bestEnded);
        state.Value("bestGold", ref _bestGold);
        state.Value("scores", ref _scores);
        state.Value("update", ref _update);
    }

    /// <summary>Looks at the responses of an update, before anything is learned from them.</summary>
    /// <returns>
    /// What has begun to be wrong. Where the run is to stop or to roll back, the update is not remembered: its weights are given up.
    /// </returns>
    public IReadOnlyList<TrainingAlarm> AfterRollout(RolloutMeasures update)
    {
        _update++;
        if (!update.IsFinite)
            return NonFinite(string.Create(InvariantCulture,
                $"The weights' norm is {update.WeightNorm:G4}, the KL {update.Kl.Mean:G4}, the entropy {update.Entropy:G4}: a step was " +
                $"so large that the model is broken"));

        List<TrainingAlarm> alarms = [];
        Watch(alarms, AlarmKind.HighKl, update.Kl.Mean > _alarms.MaxKl, () => string.Create(InvariantCulture,
            $"The mean KL to the reference is {update.Kl.Mean:F1} nats, above MaxKl ({_alarms.MaxKl}): the policy has left the responses " +
            $"that the reward was made for. Raise KlCoefficient, lower LearningRate, or end the run earlier."));
        Watch(alarms, AlarmKind.LowEntropy, update.Entropy < _alarms.MinEntropy, () => string.Create(InvariantCulture,
            $"The mean entropy is {update.Entropy:F4} nats, under MinEntropy ({_alarms.MinEntropy}): the policy has settled on one " +
            $"response to each prompt and tries no others. Raise KlCoefficient, lower LearningRate, or end the run earlier."));
        _recent.Add(update);
        if (Window(_recent.Count) is var (now, start))
            WatchWindow(alarms, now, start);

        if (alarms.Exists(a => a.Policy is AlarmPolicy.Stop or AlarmPolicy.RollBack))
        {
            _recent.RemoveAt(_recent.Count - 1);
            return alarms;
        }
        _first ??= Window(_recent.Count)?.Total;
        _scores = RolloutMeasures.Cover(_scores, update.ScoreRange);
        Forget();
        return alarms;
    }

    /// <summary>
    /// Drops what no later window begins with: with an update more, the last window and the one before it begin where they did, or later.
    /// </summary>
    private void Forget()
    {
        if (WindowStart(_recent.Count) is { } start && WindowStart(start) is { } oldest)
            _recent.RemoveRange(0, oldest);
    }

    /// <summary>Looks at the optimiser steps of an update.</summary>
    /// <param name="clipFraction">Part of the tokens whose policy loss was clipped.</param>
    /// <param name="ratioMean">Mean of π / π_old.</param>
    /// <param name="loss">Mean loss.</param>
    public IReadOnlyList<TrainingAlarm> AfterSteps(double clipFraction, double ratioMean, double loss)
    {
        if (!double.IsFinite(loss))
            return NonFinite(string.Create(InvariantCulture, $"The loss is {loss}: a step was too large, or a score is extreme"));

        List<TrainingAlarm> alarms = [];
        Watch(alarms, AlarmKind.HighClipFraction, clipFraction > _alarms.MaxClipFraction, () => string.Create(InvariantCulture,
            $"The clip fraction is {clipFraction:F3}, above MaxClipFraction ({_alarms.MaxClipFraction}): the steps are so large that " +
            $"much of what they learn from is cut off. Lower LearningRate or EpochsPerUpdate, or set MaxUpdateKl."));
        Watch(alarms, AlarmKind.HighRatioMean, ratioMean > _alarms.MaxRatioMean, () => string.Create(InvariantCulture,
            $"The mean probability ratio is {ratioMean:G4}, above MaxRatioMean ({_alarms.MaxRatioMean}): the update went far from the " +
            $"policy that sampled its responses. Lower LearningRate or EpochsPerUpdate, or set MaxUpdateKl."));
        return alarms;
    }

    /// <summary>An optimiser step was not taken.</summary>
    /// <param name="gradientNorm">NaN or infinite.</param>
    public IReadOnlyList<TrainingAlarm> NonFiniteGradient(double gradientNorm) => NonFinite(string.Create(InvariantCulture,
        $"The gradient's norm is {gradientNorm}, and the step was not taken: an earlier step was too large, or a score is extreme"));

    /// <summary>Looks for what is only seen over many responses.</summary>
    /// <param name="alarms">Receives what was found.</param>
    /// <param name="now">The last responses.</param>
    /// <param name="start">The update that they begin with.</param>
    private void WatchWindow(List<TrainingAlarm> alarms, RolloutMeasures now, int start)
    {
        // The best window so far, among those that end before this one begins.
        if (Window(start) is var (before, _))
        {
            if (_bestEnded is null || before.Ended.Mean > _bestEnded.Ended.Mean)
                _bestEnded = before;
            if (_bestGold is null || before.GoldScore?.Mean > _bestGold.GoldScore?.Mean)
                _bestGold = before;
        }

        Watch(alarms, AlarmKind.NegativeKl, now.Kl.Mean < -1e-3 && now.Kl.Mean < -Significance * now.Kl.Error, // 1e-3: never by rounding
            () => string.Create(InvariantCulture,
                $"The mean KL to the reference is {now.Kl.Mean:F3} (standard error {now.Kl.Error:F3}), but no policy's own responses " +
                $"give less than 0: the log-probabilities are not those that were sampled from. Look for what differs between sampling " +
                $"and learning (temperature, top-k, weights, end token) where LogProbDrift is above 0.001 (0.1 in bfloat16)."));

        Sample first = (_first ?? now).Length, length = now.Length;
        double drift = (length.Mean - first.Mean) / Math.Max(first.Deviation, 1);
        Watch(alarms, AlarmKind.LengthDrift, Math.Abs(drift) > _alarms.MaxLengthZScore && (IsRise(first, length) || IsRise(length, first)),
            () => string.Create(InvariantCulture,
                $"The mean response length is {length.Mean:F1} tokens, {Math.Abs(drift):F1} standard deviations from the {first.Mean:F1} " +
                $"at first: the reward pays for {(drift > 0 ? "long" : "short")} responses. Look whether length alone scores as well, " +
                $"take it out of the reward, or raise KlCoefficient."));

        Watch(alarms, AlarmKind.FallingEndRate,
            _bestEnded?.Ended is { } bestEnded && bestEnded.Mean - now.Ended.Mean > _alarms.MaxEndRateFall
                && IsRise(now.Ended, bestEnded),
            () => string.Create(InvariantCulture,
                $"The end rate fell from {_bestEnded!.Ended.Mean:F3} to {now.Ended.Mean:F3}: " +
                $"{(options.UnfinishedScore is null && options.UnfinishedPenalty == 0
                    ? "not to end costs nothing. Set UnfinishedScore or UnfinishedPenalty"
                    : "not to end scores more. Lower UnfinishedScore, raise UnfinishedPenalty")}, or raise KlCoefficient."));

        Watch(alarms, AlarmKind.FallingGoldScore,
            _bestGold?.GoldScore is { } bestGold && now.GoldScore is { } gold && IsRise(gold, bestGold)
                && IsRise(_bestGold.Score, now.Score),
            () => string.Create(InvariantCulture,
                $"The gold score fell from {_bestGold!.GoldScore!.Value.Mean:F3} to {now.GoldScore!.Value.Mean:F3} while the score rose " +
                $"from {_bestGold.Score.Mean:F3} to {now.Score.Mean:F3}: the policy exploits the reward's errors. End the run earlier, " +
                $"raise KlCoefficient, or train the reward on such responses too."));

        WatchScores(alarms, now);
    }

    private void WatchScores(List<TrainingAlarm> alarms, RolloutMeasures now)
    {
        double first = (_first ?? now).Score.Deviation;
        double little = Math.Max(CollapsedPart * first, 1e-6 * Math.Abs(now.Score.Mean)); // equal scores may differ by rounding
        var (lowest, highest) = RolloutMeasures.Cover(_scores, now.ScoreRange);
        bool neverDiffered = highest - lowest <= 2 * little, reachedTheBest = !neverDiffered && highest - now.Score.Mean <= little;
        string causeAndFix = (neverDiffered, reachedTheBest) switch
        {
            (_, true) => "all responses have reached the best score that was seen, and nothing is left to learn. End the run earlier, or " +
                "use a reward that still tells good responses apart.",
            (true, _) when now.Ended.Mean == 0 && options.UnfinishedScore is not null =>
                "no response ends, and all have the score of unfinished ones. Raise MaxResponseTokens, begin with a model that learned " +
                "to end, or set UnfinishedScore to null.",
            (true, _) => "the reward gives all responses the same. Try it on a few good and bad responses.",
            _ => "the reward no longer tells the policy's responses apart. Raise KlCoefficient, lower LearningRate, or use a reward with " +
                "finer steps.",
        };
        Watch(alarms, AlarmKind.ScoreCollapse, now.Score.Deviation <= little, () => string.Create(InvariantCulture,
            $"The scores' standard deviation is {now.Score.Deviation:F4}, at first {first:F4}, around a mean of {now.Score.Mean:F3}: " +
            $"{causeAndFix}"), atMost: reachedTheBest ? AlarmPolicy.Log : AlarmPolicy.RollBack);
    }

    private IReadOnlyList<TrainingAlarm> NonFinite(string numberAndCause)
    {
        var policy = _alarms.PolicyOf(AlarmKind.NonFinite);
        string message = numberAndCause + ". Lower LearningRate, raise WarmupSteps, or bring the scores to a deviation near 1.";
        return policy == AlarmPolicy.Ignore ? [] : [new TrainingAlarm(AlarmKind.NonFinite, message, policy)];
    }

    /// <summary>Raises an alarm where something is wrong, unless it is only logged and was seen a short while ago.</summary>
    /// <param name="alarms">Receives it.</param>
    /// <param name="kind">Which.</param>
    /// <param name="isWrong">What was found.</param>
    /// <param name="message">Words it.</param>
    /// <param name="atMost">The strictest policy that the case deserves.</param>
    private void Watch(
        List<TrainingAlarm> alarms, AlarmKind kind, bool isWrong, Func<string> message, AlarmPolicy atMost = AlarmPolicy.RollBack)
    {
        var policy = (AlarmPolicy)Math.Min((int)_alarms.PolicyOf(kind), (int)atMost);
        if (!isWrong || policy == AlarmPolicy.Ignore)
            return;
        bool isNew = !_lastSeen.TryGetValue(kind, out int seen) || _update - seen > QuietUpdates;
        _lastSeen[kind] = _update;
        if (isNew || policy != AlarmPolicy.Log)
            alarms.Add(new TrainingAlarm(kind, message(), policy));
    }

    /// <summary>The last updates before one, as many as make a window together; null where there are too few.</summary>
    private (RolloutMeasures Total, int Start)? Window(int end)
    {
        if (WindowStart(end) is not { } start)
            return null;
        var total = _recent[end - 1];
        for (int i = end - 2; i >= start; i--)
            total = _recent[i] + total;
        return (total, start);
    }

    private int? WindowStart(int end)
    {
        long responses = 0;
        for (int start = end - 1; start >= 0; start--)
        {
            responses += _recent[start].Score.Count;
            if (responses >= WindowSize)
                return start;
        }
        return null;
    }

    /// <summary>
    /// Whether a mean is higher than another by more than chance gives: a z-test with the variance of both together, which also holds for
    /// rates of 0 and 1.
    /// </summary>
    private static bool IsRise(Sample from, Sample to) =>
        to.Mean - from.Mean > Significance * (from + to).Deviation * Math.Sqrt(1.0 / from.Count + 1.0 / to.Count);
}
