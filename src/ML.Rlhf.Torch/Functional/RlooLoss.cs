using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Functional;

/// <summary>
/// What REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv 2402.14740) has of its own: the whole response is one action. The loss is
/// the mean over responses of <see cref="PpoLoss.Policy"/>, as TRL's.
/// </summary>
public static class RlooLoss
{
    /// <summary>The log-ratio of a response is held within ±20, as a token's is in PPO.</summary>
    private const double LogRatioBound = 20;

    /// <summary>ρ = π(y) / π_old(y) = exp(Σ_t (log π − log π_old)), one number per response.</summary>
    /// <param name="logProbs">log π of each token now (B, R).</param>
    /// <param name="oldLogProbs">log π of each token when the response was sampled (B, R).</param>
    /// <param name="mask">1 for real response tokens (B, R).</param>
    /// <returns>(B), 1 at the first step after a rollout.</returns>
    public static Tensor Ratio(Tensor logProbs, Tensor oldLogProbs, Tensor mask)
    {
        using var scope = NewDisposeScope();
        var logRatio = ((logProbs - oldLogProbs) * mask).sum(-1);
        return logRatio.clamp(-LogRatioBound, LogRatioBound).exp().MoveToOuterDisposeScope();
    }
}
