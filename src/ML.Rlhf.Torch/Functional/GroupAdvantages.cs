using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Functional;

/// <summary>
/// Advantages from several responses to the same prompt, in the place of a value function's. One number per response, for all its
/// tokens. B = responses, in groups of G that stand side by side.
/// </summary>
public static class GroupAdvantages
{
    /// <summary>As TRL's, so that a group of equal scores divides by something.</summary>
    private const double DeviationFloor = 1e-4;

    /// <summary>
    /// GRPO's (r − mean of the group) / (deviation + 1e-4) (Shao et al. 2024, arXiv 2402.03300, section 4.1.2), with the unbiased
    /// deviation, as TRL. Without the division, Dr. GRPO's (Liu et al. 2025, arXiv 2503.20783).
    /// </summary>
    /// <param name="scores">r (B).</param>
    /// <param name="groupSize">G, at least 2; B is a multiple of it.</param>
    /// <param name="scaling">Whose deviation divides.</param>
    /// <returns>(B). The advantages of a group sum to 0, and are exactly 0 where its scores are equal.</returns>
    public static Tensor Standardized(Tensor scores, int groupSize, AdvantageScaling scaling = AdvantageScaling.Group)
    {
        using var scope = NewDisposeScope();
        var groups = Centered(scores, groupSize);                                             // (B / G, G)
        var advantages = scaling switch
        {
            AdvantageScaling.Group => groups / (groups.std(1, unbiased: true, keepdim: true) + DeviationFloor),
            AdvantageScaling.Batch => groups / (scores.std(unbiased: true) + DeviationFloor),
            _ => groups,
        };
        return advantages.reshape(scores.shape).MoveToOuterDisposeScope();
    }

    /// <summary>
    /// RLOO's r − mean of the group's other members, an unbiased baseline (Kool et al. 2019; Ahmadian et al. 2024, arXiv 2402.14740,
    /// eq. 7).
    /// </summary>
    /// <param name="scores">r, the KL penalty included (B).</param>
    /// <param name="groupSize">G, at least 2; B is a multiple of it.</param>
    /// <param name="normalize">Whether the advantages are then brought to mean 0 and deviation 1 over the batch (TRL's option).</param>
    /// <returns>(B).</returns>
    public static Tensor LeaveOneOut(Tensor scores, int groupSize, bool normalize = false)
    {
        using var scope = NewDisposeScope();
        // r_i − (Σr − r_i) / (G − 1) = (r_i − mean)·G / (G − 1)
        var advantages = (Centered(scores, groupSize) * ((double)groupSize / (groupSize - 1))).reshape(scores.shape);
        if (normalize)
            advantages = (advantages - advantages.mean()) / (advantages.std(unbiased: true) + DeviationFloor);
        return advantages.MoveToOuterDisposeScope();
    }

    /// <summary>
    /// Scores less their group's mean, (B / G, G). Measured from the group's first score, so that equal scores give 0 and not rounding,
    /// which the division by a tiny deviation would blow up.
    /// </summary>
    private static Tensor Centered(Tensor scores, int groupSize)
    {
        var groups = scores.reshape(-1, groupSize);
        var shifted = groups - groups.narrow(1, 0, 1);
        return shifted - shifted.mean([1], keepdim: true);
    }
}
