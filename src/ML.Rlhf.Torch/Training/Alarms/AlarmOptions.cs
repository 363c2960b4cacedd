using System.Collections.ObjectModel;

namespace ML.Rlhf;

/// <summary>What a run does when something looks wrong.</summary>
public enum AlarmPolicy
{
    /// <summary>Nothing; it is not looked for.</summary>
    Ignore,

    /// <summary>A warning in the log and in the progress record; the run goes on as it is.</summary>
    Log,

    /// <summary>
    /// The run ends. The model is the one that sampled the last healthy responses, and the warning says why.
    /// </summary>
    Stop,

    /// <summary>
    /// The run goes back to the model that sampled the last healthy responses, and goes on with new responses at half the learning rate.
    /// The third time, it ends.
    /// </summary>
    RollBack,
}

/// <summary>
/// What may go wrong in a run that learns from its own responses. "Recently" is over the last 128 responses or the last update, whichever
/// is more; where numbers are compared, the difference exceeds five standard errors, so that the chance of sampling raises no alarm.
/// </summary>
public enum AlarmKind
{
    /// <summary>
    /// The mean KL to the reference is recently below 0, which responses of the policy itself cannot give: log-probabilities are not those
    /// of the distribution that was sampled from.
    /// </summary>
    NegativeKl,

    /// <summary>The mean KL to the reference is above <see cref="AlarmOptions.MaxKl"/>.</summary>
    HighKl,

    /// <summary>The policy's mean entropy is under <see cref="AlarmOptions.MinEntropy"/>.</summary>
    LowEntropy,

    /// <summary>The mean length of responses is recently further from that of the first ones than
    /// <see cref="AlarmOptions.MaxLengthZScore"/>.</summary>
    LengthDrift,

    /// <summary>Recently fewer responses end than did at the best, by more than <see cref="AlarmOptions.MaxEndRateFall"/>.</summary>
    FallingEndRate,

    /// <summary>The part of the tokens whose policy loss was clipped is above <see cref="AlarmOptions.MaxClipFraction"/>.</summary>
    HighClipFraction,

    /// <summary>The mean probability ratio is above <see cref="AlarmOptions.MaxRatioMean"/>.</summary>
    HighRatioMean,

    /// <summary>The gold score is recently lower than it was at its best, and the score higher: the reward is being exploited.</summary>
    FallingGoldScore,

    /// <summary>
    /// The scores' standard deviation is recently at most a twentieth of what it was at first, or 0. Where all responses have reached the
    /// best score that was seen, there is nothing left to learn; that is logged, and neither stops the run nor rolls it back.
    /// </summary>
    ScoreCollapse,

    /// <summary>
    /// A loss, gradient or log-probability is NaN or infinite: no such step is taken, and the update's remaining steps are left out. With
    /// <see cref="AlarmPolicy.Log"/>, the run goes on with new responses; if the next update has one again, it ends with an exception.
    /// With <see cref="AlarmPolicy.Ignore"/>, the first one is the exception.
    /// </summary>
    NonFinite,
}

/// <summary>Something that looks wrong. It is raised when it begins, and again only after it went away.</summary>
/// <param name="Kind">What.</param>
/// <param name="Message">The number, the likely cause and the fix, in one line.</param>
/// <param name="Policy">What the run did about it.</param>
public sealed record TrainingAlarm(AlarmKind Kind, string Message, AlarmPolicy Policy);

/// <summary>What a run watches for, and what it does then.</summary>
public sealed record AlarmOptions
{
    /// <summary>What to do about every alarm that <see cref="Policies"/> does not name.</summary>
    /// <value><see cref="AlarmPolicy.Log"/> by default. Stop and RollBack keep a copy of the weights and of the optimiser's
    /// state.</value>
    public AlarmPolicy Policy { get; init; } = AlarmPolicy.Log;

    /// <summary>What to do about single alarms.</summary>
    /// <value>Empty by default.</value>
    public IReadOnlyDictionary<AlarmKind, AlarmPolicy> Policies { get; init; } = ReadOnlyDictionary<AlarmKind, AlarmPolicy>.Empty;

    /// <summary>The highest mean KL to the reference, in nats per response.</summary>
    /// <value>Above 0. 50 by default: as if each of 32 tokens had gone from a probability of 0.2 to 0.95. Long responses may need
    /// more.</value>
    public double MaxKl { get; init; } = 50;

    /// <summary>The lowest mean entropy, in nats per token.</summary>
    /// <value>At least 0. 0.01 by default: the next token is certain, but for one in a thousand.</value>
    public double MinEntropy { get; init; } = 0.01;

    /// <summary>
    /// How far the mean length may go from that of the first responses, in standard deviations of one response's length then (at least
    /// one token).
    /// </summary>
    /// <value>Above 0. 2 by default: the average response is longer, or shorter, than all but a few were at first.</value>
    public double MaxLengthZScore { get; init; } = 2;

    /// <summary>How far the part of the responses that end may fall below the best that it was.</summary>
    /// <value>In [0, 1]. 0.1 by default: one response in ten that ended does so no more.</value>
    public double MaxEndRateFall { get; init; } = 0.1;

    /// <summary>The largest part of the tokens whose policy loss is clipped, over the optimiser steps of an update.</summary>
    /// <value>Above 0. 0.4 by default; a healthy update clips about a tenth. 1 turns the alarm off.</value>
    public double MaxClipFraction { get; init; } = 0.4;

    /// <summary>The largest mean probability ratio, over the optimiser steps of an update.</summary>
    /// <value>Above 1. 10 by default, as TRL; a healthy update stays near 1.</value>
    public double MaxRatioMean { get; init; } = 10;

    /// <summary>What to do about an alarm.</summary>
    internal AlarmPolicy PolicyOf(AlarmKind kind) => Policies.TryGetValue(kind, out var policy) ? policy : Policy;

    /// <summary>Whether the run may have to go back to an earlier model.</summary>
    internal bool MayGoBack => Enum.GetValues<AlarmKind>().Any(kind => PolicyOf(kind) is AlarmPolicy.Stop or AlarmPolicy.RollBack);

    internal void Check(OptionProblems problems)
    {
        const string Allowed = "Ignore, Log, Stop or RollBack";
        problems.Require(Enum.IsDefined(Policy), "Alarms.Policy", Policy, Allowed);
        problems.Require(Policies is not null, "Alarms.Policies", Policies, "a dictionary, which may be empty");
        foreach (var (kind, policy) in Policies ?? ReadOnlyDictionary<AlarmKind, AlarmPolicy>.Empty)
        {
            problems.Require(Enum.IsDefined(kind), "A key of Alarms.Policies", kind, $"an {nameof(AlarmKind)}");
            problems.Require(Enum.IsDefined(policy), $"Alarms.Policies[{kind}]", policy, Allowed);
        }
        problems.Require(MaxKl > 0, "Alarms.MaxKl", MaxKl, "above 0");
        problems.Require(MinEntropy >= 0, "Alarms.MinEntropy", MinEntropy, "at least 0");
        problems.Require(MaxLengthZScore > 0, "Alarms.MaxLengthZScore", MaxLengthZScore, "above 0");
        problems.Require(MaxEndRateFall is >= 0 and <= 1, "Alarms.MaxEndRateFall", MaxEndRateFall, "in [0, 1]");
        problems.Require(MaxClipFraction > 0, "Alarms.MaxClipFraction", MaxClipFraction, "above 0");
        problems.Require(MaxRatioMean > 1, "Alarms.MaxRatioMean", MaxRatioMean, "above 1");
    }
}
