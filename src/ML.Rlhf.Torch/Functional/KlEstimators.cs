using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Functional;

/// <summary>
/// What one token y ~ π says about KL(π ‖ π_ref), in nats (Schulman, "Approximating KL Divergence", 2020), with
/// Δ = log π_ref(y) − log π(y). Their means over tokens drawn from π estimate the divergence.
/// </summary>
public static class KlEstimators
{
    /// <summary>k1 = −Δ: unbiased, below 0 for about half of the tokens. It is what the reward of PPO is lowered by.</summary>
    /// <param name="logProbs">log π of tokens drawn from π, any shape.</param>
    /// <param name="referenceLogProbs">log π_ref of the same tokens, same shape.</param>
    /// <returns>Same shape.</returns>
    public static Tensor K1(Tensor logProbs, Tensor referenceLogProbs) => logProbs - referenceLogProbs;

    /// <summary>k2 = ½Δ²: never below 0, little variance, biased. Against the sampling policy, it is PPO's approximate KL.</summary>
    /// <param name="logProbs">log π of tokens drawn from π, any shape.</param>
    /// <param name="referenceLogProbs">log π_ref of the same tokens, same shape.</param>
    /// <returns>Same shape.</returns>
    public static Tensor K2(Tensor logProbs, Tensor referenceLogProbs)
    {
        using var scope = NewDisposeScope();
        return ((referenceLogProbs - logProbs).square() * 0.5).MoveToOuterDisposeScope();
    }

    /// <summary>
    /// k3 = exp(Δ) − 1 − Δ: never below 0, little variance, unbiased. GRPO adds it to its loss (arXiv 2402.03300, eq. 4).
    /// </summary>
    /// <param name="logProbs">log π of tokens drawn from π, any shape.</param>
    /// <param name="referenceLogProbs">log π_ref of the same tokens, same shape.</param>
    /// <returns>Same shape.</returns>
    public static Tensor K3(Tensor logProbs, Tensor referenceLogProbs)
    {
        using var scope = NewDisposeScope();
        var difference = referenceLogProbs - logProbs;
        return (difference.expm1() - difference).MoveToOuterDisposeScope(); // expm1: near 0, exp − 1 would round k3 away
    }
}
