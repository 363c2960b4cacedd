namespace ML.Rlhf;

/// <summary>
/// Where a run of GRPO or RLOO stands after an update. In brackets, the name that the field's codebases log the number under.
/// </summary>
public sealed record GroupProgress : PolicyProgress
{
    [System.Diagnostics.CodeAnalysis.SetsRequiredMembers]
    internal GroupProgress(PolicyProgress policy) : base(policy)
    {
    }

    /// <summary>
    /// Part of the groups whose responses all score the same, so that they teach nothing but the KL penalty (<c>frac_reward_zero_std</c>).
    /// Towards 1, prompts are too easy or too hard, or the score too coarse.
    /// </summary>
    public double EqualGroupRate { get; init; }

    private protected override void AddMetrics(Dictionary<string, double> metrics)
    {
        base.AddMetrics(metrics);
        metrics["frac_reward_zero_std"] = EqualGroupRate;
    }

    /// <summary>Part of the groups, of <paramref name="groupSize"/> neighbours each, whose scores are all the same.</summary>
    internal static double EqualGroups(double[] scores, int groupSize) =>
        scores.Chunk(groupSize).Average(group => group.All(score => score == group[0]) ? 1.0 : 0.0);
}
