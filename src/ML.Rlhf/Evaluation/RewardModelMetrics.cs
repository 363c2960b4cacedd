namespace ML.Rlhf;

/// <summary>How well a reward model agrees with people.</summary>
public sealed record RewardModelMetrics
{
    /// <summary>Pairs measured: those with two different answers.</summary>
    public required int PairCount { get; init; }

    /// <summary>Part of the pairs in which the chosen answer scored higher; half of each tie. 0.5 is guessing.</summary>
    public required double Accuracy { get; init; }

    /// <summary>Pairs whose answers scored exactly the same.</summary>
    public required int TieCount { get; init; }

    /// <summary>
    /// <see cref="Accuracy"/> of the better of two rules that know only the answers' lengths in tokens: "longer wins" and "shorter wins".
    /// A reward model that does not beat it has learned length.
    /// </summary>
    public required double LengthBaselineAccuracy { get; init; }

    /// <summary>Mean score of the chosen answers.</summary>
    public required double MeanChosenScore { get; init; }

    /// <summary>Mean score of the rejected answers.</summary>
    public required double MeanRejectedScore { get; init; }
}
