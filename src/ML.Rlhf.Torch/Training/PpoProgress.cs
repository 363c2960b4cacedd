namespace ML.Rlhf;

/// <summary>
/// Where a PPO run stands after an update. In brackets, the name that the field's codebases log the number under. Token statistics count
/// real response tokens only.
/// </summary>
public sealed record PpoProgress : TrainingProgress
{
    /// <summary>
    /// Mean over episodes of Σ_t (log π − log π_ref), in nats, before the update (<c>objective/kl</c>). 0 at the first update.
    /// </summary>
    public required double Kl { get; init; }

    /// <summary>β of this update (<c>objective/kl_coef</c>).</summary>
    public required double KlCoefficient { get; init; }

    /// <summary>Mean entropy of the policy per token, in nats, before the update (<c>objective/entropy</c>).</summary>
    public required double Entropy { get; init; }

    /// <summary>Mean score of the episodes, after <see cref="PpoHyperparameters.UnfinishedScore"/> (<c>objective/scores</c>).</summary>
    public required double Score { get; init; }

    /// <summary>Standard deviation of the scores. Near 0, there is nothing left to learn from.</summary>
    public required double ScoreDeviation { get; init; }

    /// <summary>Mean of score − β·KL, which PPO maximises (<c>objective/rlhf_reward</c>).</summary>
    public required double RlhfReward { get; init; }

    /// <summary>Mean tokens of a response, its end token included.</summary>
    public required double ResponseLength { get; init; }

    /// <summary>Part of the responses that ended with the end token.</summary>
    public required double EndRate { get; init; }

    /// <summary>
    /// ½·E[(log π − log π_old)²], averaged over the optimiser steps of the update (<c>policy/approxkl</c>). 0 before the first step.
    /// </summary>
    public required double ApproximateKl { get; init; }

    /// <summary>Part of the tokens whose policy loss was clipped, so that they taught nothing (<c>policy/clipfrac</c>).</summary>
    public required double PolicyClipFraction { get; init; }

    /// <summary>Mean probability ratio (<c>policy/ratio</c>). 1 before the first step.</summary>
    public required double RatioMean { get; init; }

    /// <summary>Smallest probability ratio of any token in any step of the update.</summary>
    public required double RatioMinimum { get; init; }

    /// <summary>Largest probability ratio of any token in any step of the update.</summary>
    public required double RatioMaximum { get; init; }

    /// <summary>Mean policy loss (<c>loss/policy</c>).</summary>
    public required double PolicyLoss { get; init; }

    /// <summary>Mean value loss, before its coefficient (<c>loss/value</c>).</summary>
    public required double ValueLoss { get; init; }

    /// <summary>Part of the tokens whose value loss was clipped (<c>val/clipfrac</c>).</summary>
    public required double ValueClipFraction { get; init; }

    /// <summary>1 − Var(R − V) / Var(R) at the rollout (<c>val/var_explained</c>): 1 is perfect, 0 no better than a constant.</summary>
    public required double ExplainedVariance { get; init; }

    /// <summary>
    /// Largest |log π while sampling − log π in a fresh forward pass| of any token. A bug or a broken cache shows here; rounding stays
    /// below 1e-3.
    /// </summary>
    public required double LogProbDrift { get; init; }

    /// <summary>Episodes per second since the run began.</summary>
    public required double EpisodesPerSecond { get; init; }
}
