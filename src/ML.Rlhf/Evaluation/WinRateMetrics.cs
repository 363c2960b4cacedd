namespace ML.Rlhf;

/// <summary>How often one model's answers beat another's.</summary>
public sealed record WinRateMetrics
{
    /// <summary>Prompts that both models answered.</summary>
    public required int PromptCount { get; init; }

    /// <summary>
    /// Part of the prompts that the candidate wins, in [0, 1]; a tie is half a win, and 0.5 is no difference. With a judge of pairs, the
    /// mean probability that the candidate's answer is better, over both orders.
    /// </summary>
    public required double WinRate { get; init; }

    /// <summary>The lower end of the 95 % confidence interval of <see cref="WinRate"/>, for prompts like these.</summary>
    /// <remarks>
    /// The interval is p ± 1.96·√(v/(n + 4)), cut to [0, 1], where p and v are mean and variance of the n prompts' results (1, ½, 0, or a
    /// probability) and of two wins and two losses that are added to them. With wins and losses only this is the interval of Agresti
    /// and Coull 1998, which keeps its level for few prompts and does not shrink to nothing when one side wins all of them, as the plain
    /// normal interval does; the results' own variance makes it as narrow as ties and undecided judges deserve, as Wilson's would not.
    /// </remarks>
    public required double LowerBound { get; init; }

    /// <summary>The upper end of the interval that begins at <see cref="LowerBound"/>.</summary>
    public required double UpperBound { get; init; }

    /// <summary>
    /// Prompts that neither won: equal scores, equal answers, or a judge of pairs that names one side in one order and the other, as
    /// surely, in the other.
    /// </summary>
    public required int TieCount { get; init; }

    /// <summary>Part of the prompts that neither won.</summary>
    public double TieRate => (double)TieCount / PromptCount;

    /// <summary>Mean score of the candidate's answers; null with a judge of pairs.</summary>
    public double? MeanCandidateScore { get; init; }

    /// <summary>Mean score of the baseline's answers; null with a judge of pairs.</summary>
    public double? MeanBaselineScore { get; init; }

    /// <summary>
    /// How much a judge of pairs prefers the answer that it reads first, whichever that is: its mean probability for the first − ½, in
    /// [−½, ½]; 0 is fair. The win rate is free of it. Null with a judge of single answers.
    /// </summary>
    public double? PositionBias { get; init; }

    /// <summary>
    /// Part of the prompts where a judge of pairs names another winner when the answers change places: it went by the place. Null with a
    /// judge of single answers.
    /// </summary>
    public double? OrderDisagreement { get; init; }
}
