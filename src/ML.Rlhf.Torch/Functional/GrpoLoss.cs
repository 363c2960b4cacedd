using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Functional;

/// <summary>
/// The parts of group relative policy optimisation's loss (Shao et al. 2024, arXiv 2402.03300, eq. 3):
/// Σ w_t·(<see cref="PpoLoss.Policy"/>_t + β·<see cref="KlPenalty"/>_t), with <see cref="TokenWeights"/> w. B = responses, R = tokens.
/// </summary>
public static class GrpoLoss
{
    /// <summary>A token that the policy has all but forgotten cannot make the penalty infinite; so does verl.</summary>
    private const double LogRatioBound = 20;

    /// <summary>
    /// exp(d) − 1 − d with d = log π_ref − log π, the estimator k3 of the KL divergence (Schulman 2020; Shao et al. 2024, eq. 4):
    /// unbiased, and never below 0.
    /// </summary>
    /// <param name="logProbs">log π (B, R).</param>
    /// <param name="referenceLogProbs">log π_ref (B, R).</param>
    /// <returns>(B, R).</returns>
    public static Tensor KlPenalty(Tensor logProbs, Tensor referenceLogProbs)
    {
        using var scope = NewDisposeScope();
        var difference = (referenceLogProbs - logProbs).clamp(-LogRatioBound, LogRatioBound);
        return (difference.expm1() - difference).MoveToOuterDisposeScope(); // expm1: near 0, exp − 1 would round the penalty away
    }

    /// <summary>
    /// How much each token counts. Grpo: m / |o| / B, a mean over the tokens of each response and then over responses. Bnpo: m / Σm, a
    /// mean over tokens. DrGrpo: m / (B·R_max). Dapo: m / N.
    /// </summary>
    /// <param name="mask">m, 1 for tokens that are learned from (B, R), for all responses of an optimiser step.</param>
    /// <param name="type">Which of them.</param>
    /// <param name="maxResponseTokens">R_max, the most tokens that a response may have; used by DrGrpo.</param>
    /// <param name="globalTokens">N, the tokens of a step's share of the global batch; used by Dapo.</param>
    /// <returns>(B, R), 0 where the mask is.</returns>
    public static Tensor TokenWeights(Tensor mask, GrpoLossType type, int maxResponseTokens, double globalTokens)
    {
        using var scope = NewDisposeScope();
        long rows = mask.size(0);
        var weights = type switch
        {
            GrpoLossType.Grpo => mask / (mask.sum(-1, keepdim: true).clamp_min(1) * rows),
            GrpoLossType.Bnpo => mask / mask.sum().clamp_min(1),
            GrpoLossType.DrGrpo => mask / (rows * (double)maxResponseTokens),
            GrpoLossType.Dapo => mask / Math.Max(1, globalTokens),
            _ => throw new ArgumentOutOfRangeException(nameof(type), type, null),
        };
        return weights.MoveToOuterDisposeScope();
    }
}
