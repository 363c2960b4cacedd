namespace ML.Rlhf;

/// <summary>What a run does when something looks wrong.</summary>
public enum AlarmPolicy
{
    /// <summary>Nothing; it is not looked for.</summary>
    Ignore,

    /// <summary>A warning in the log and in the progress record.</summary>
    Log,

    /// <summary>
    /// The run ends. The model is the one that sampled the last healthy answers, and the warning says why.
    /// </summary>
    Stop,

    /// <summary>
    /// The run goes back to the model that sampled the last healthy answers, and goes on with new answers at half the learning rate. The
    /// third time, it ends.
    /// </summary>
    RollBack,
}

/// <summary>What may go wrong in a run that learns from its own answers.</summary>
public enum AlarmKind
{
    /// <summary>The mean KL to the reference is below 0, which no sample of the policy itself can give in the long run.</summary>
    NegativeKl,

    /// <summary>The mean KL to the reference is above <see cref="AlarmOptions.MaxKl"/>.</summary>
    KlOverCap,

    /// <summary>The policy's entropy is under <see cref="AlarmOptions.MinEntropy"/>.</summary>
    EntropyUnderFloor,

    /// <summary>The responses' mean length has left its range of the first updates.</summary>
    LengthDrift,

    /// <summary>Fewer responses end than did.</summary>
    EndRateFalling,

    /// <summary>Most tokens are clipped.</summary>
    ClipFraction,

    /// <summary>The mean probability ratio is far from 1.</summary>
    RatioMean,

    /// <summary>The score rises while the gold score falls: the reward is being exploited.</summary>
    GoldScoreFalling,

    /// <summary>All responses score the same.</summary>
    ScoreCollapse,

    /// <summary>A loss or gradient is NaN or infinite; that step is not taken.</summary>
    NonFinite,
}

/// <summary>Something that looks wrong.</summary>
/// <param name="Kind">What.</param>
/// <param name="Message">The number, the likely cause and the fix, in one line.</param>
/// <param name="Policy">What the run did about it.</param>
public sealed record TrainingAlarm(AlarmKind Kind, string Message, AlarmPolicy Policy);

/// <summary>What a run watches for, and what it does then.</summary>
public sealed record AlarmOptions
{
    /// <summary>What to do about every alarm that <see cref="Policies"/> does not name.</summary>
    /// <value><see cref="AlarmPolicy.Log"/> by default.</value>
    public AlarmPolicy Policy { get; init; } = AlarmPolicy.Log;

    /// <summary>What to do about single alarms.</summary>
    public IReadOnlyDictionary<AlarmKind, AlarmPolicy> Policies { get; init; } =
        System.Collections.ObjectModel.ReadOnlyDictionary<AlarmKind, AlarmPolicy>.Empty;

    /// <summary>The highest mean KL to the reference, in nats per response.</summary>
    /// <value>Above 0. 50 by default; over-optimisation experiments reach it last.</value>
    public double MaxKl { get; init; } = 50;

    /// <summary>The lowest mean entropy, in nats per token.</summary>
    /// <value>At least 0. 0.01 by default: the policy answers each prompt in one way only.</value>
    public double MinEntropy { get; init; } = 0.01;

    internal void Check(OptionProblems problems)
    {
        problems.Require(Enum.IsDefined(Policy), "Alarms.Policy", Policy, "Ignore, Log, Stop or RollBack");
        problems.Require(MaxKl > 0, "Alarms.MaxKl", MaxKl, "above 0");
        problems.Require(MinEntropy >= 0, "Alarms.MinEntropy", MinEntropy, "at least 0");
    }
}
