using System.Globalization;

namespace ML.Rlhf;

/// <summary>
/// Where a run that learns from its own answers stands after an update. In brackets, the name that the field's codebases log the number
/// under. Token statistics count real response tokens only.
/// </summary>
public record PolicyProgress : TrainingProgress
{
    /// <summary>
    /// Mean over episodes of Σ_t (log π − log π_ref), in nats, before the update (<c>objective/kl</c>). 0 at the first update.
    /// </summary>
    public required double Kl { get; init; }

    /// <summary>β of this update (<c>objective/kl_coef</c>).</summary>
    public required double KlCoefficient { get; init; }

    /// <summary>Mean entropy of the policy per token, in nats, before the update (<c>objective/entropy</c>).</summary>
    public required double Entropy { get; init; }

    /// <summary>Mean score of the episodes, after what unfinished ones are worth (<c>objective/scores</c>).</summary>
    public required double Score { get; init; }

    /// <summary>Standard deviation of the scores. Near 0, there is nothing left to learn from.</summary>
    public required double ScoreDeviation { get; init; }

    /// <summary>Mean score by the gold reward, which nobody optimises; null without one.</summary>
    public double? GoldScore { get; init; }

    /// <summary>Mean of score − β·KL (<c>objective/rlhf_reward</c>).</summary>
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

    /// <summary>Variance of the probability ratio over the tokens of a step, averaged over the steps (<c>policy/ratio_var</c>).</summary>
    public required double RatioVariance { get; init; }

    /// <summary>Smallest probability ratio of any token in any step of the update.</summary>
    public required double RatioMinimum { get; init; }

    /// <summary>Largest probability ratio of any token in any step of the update.</summary>
    public required double RatioMaximum { get; init; }

    /// <summary>Mean policy loss (<c>loss/policy</c>).</summary>
    public required double PolicyLoss { get; init; }

    /// <summary>
    /// Largest |log π while sampling − log π in a fresh forward pass| of any token. A bug or a broken cache shows here; rounding stays
    /// below 1e-3 (0.1 where products are in bfloat16), and the log warns of more.
    /// </summary>
    public required double LogProbDrift { get; init; }

    /// <summary>
    /// Optimiser steps that the update made; fewer than planned where <see cref="PolicyHyperparameters.MaxUpdateKl"/> or an alarm ended it.
    /// Without any, losses are 0 and ratios 1.
    /// </summary>
    public required int OptimizerSteps { get; init; }

    /// <summary>What has begun to look wrong, and what was done about it; empty when all is well.</summary>
    public IReadOnlyList<TrainingAlarm> Alarms { get; init; } = [];

    /// <summary>Episodes per second since the run began.</summary>
    public required double EpisodesPerSecond { get; init; }

    /// <summary>What sampling the responses of this update took (<c>time/sampling</c>, in seconds).</summary>
    public TimeSpan SamplingTime { get; init; }

    /// <summary>What the reward, and the gold reward if there is one, took to score them (<c>time/scoring</c>, in seconds).</summary>
    public TimeSpan ScoringTime { get; init; }

    /// <summary>
    /// What policy, reference and value function took to evaluate them (<c>time/evaluation</c>, in seconds). Where the first step learns
    /// from all episodes at once, it learns through this pass of the policy, and has none of its own.
    /// </summary>
    public TimeSpan EvaluationTime { get; init; }

    /// <summary>What the optimiser steps of this update took (<c>time/learning</c>, in seconds).</summary>
    public TimeSpan LearningTime { get; init; }

    private protected override void AddMetrics(Dictionary<string, double> metrics)
    {
        base.AddMetrics(metrics);
        metrics["objective/kl"] = Kl;
        metrics["objective/kl_coef"] = KlCoefficient;
        metrics["objective/entropy"] = Entropy;
        metrics["objective/scores"] = Score;
        metrics["objective/scores_std"] = ScoreDeviation;
        if (GoldScore is { } gold)
            metrics["objective/gold_scores"] = gold;
        metrics["objective/rlhf_reward"] = RlhfReward;
        metrics["response/length"] = ResponseLength;
        metrics["response/stop_rate"] = EndRate;
        metrics["policy/approxkl"] = ApproximateKl;
        metrics["policy/clipfrac"] = PolicyClipFraction;
        metrics["policy/ratio"] = RatioMean;
        metrics["policy/ratio_var"] = RatioVariance;
        metrics["policy/ratio_min"] = RatioMinimum;
        metrics["policy/ratio_max"] = RatioMaximum;
        metrics["policy/logprob_drift"] = LogProbDrift;
        metrics["loss/policy"] = PolicyLoss;
        metrics["episodes_per_second"] = EpisodesPerSecond;
        metrics["time/sampling"] = SamplingTime.TotalSeconds;
        metrics["time/scoring"] = ScoringTime.TotalSeconds;
        metrics["time/evaluation"] = EvaluationTime.TotalSeconds;
        metrics["time/learning"] = LearningTime.TotalSeconds;
    }

    internal override string Details => string.Create(CultureInfo.InvariantCulture,
        $" score {Score:F3} kl {Kl:F3} entropy {Entropy:F3} clip {PolicyClipFraction:F3}");
}
