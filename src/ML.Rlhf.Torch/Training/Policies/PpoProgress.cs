namespace ML.Rlhf;

/// <summary>Where a PPO run stands after an update. In brackets, the name that the field's codebases log the number under.</summary>
public sealed record PpoProgress : PolicyProgress
{
    [System.Diagnostics.CodeAnalysis.SetsRequiredMembers]
    internal PpoProgress(PolicyProgress policy) : base(policy)
    {
    }

    /// <summary>Mean value loss, before its coefficient (<c>loss/value</c>).</summary>
    public double ValueLoss { get; init; }

    /// <summary>Part of the tokens whose value loss was clipped (<c>val/clipfrac</c>).</summary>
    public double ValueClipFraction { get; init; }

    /// <summary>1 − Var(R − V) / Var(R) at the rollout (<c>val/var_explained</c>): 1 is perfect, 0 no better than a constant.</summary>
    public double ExplainedVariance { get; init; }

    /// <summary>Mean loss per token on the pretraining text, in nats, before its coefficient; null without any.</summary>
    public double? PretrainingLoss { get; init; }

    /// <summary>
    /// L2 norm of the pretraining loss' gradient, with its coefficient, over that of PPO's own loss; null without pretraining text. Far
    /// above 1, the policy learns text and not the reward.
    /// </summary>
    public double? PretrainingGradientRatio { get; init; }

    private protected override void AddMetrics(Dictionary<string, double> metrics)
    {
        base.AddMetrics(metrics);
        metrics["loss/value"] = ValueLoss;
        metrics["val/clipfrac"] = ValueClipFraction;
        metrics["val/var_explained"] = ExplainedVariance;
        if (PretrainingLoss is { } loss)
            metrics["loss/ptx"] = loss;
        if (PretrainingGradientRatio is { } ratio)
            metrics["ptx/grad_norm_ratio"] = ratio;
    }
}
