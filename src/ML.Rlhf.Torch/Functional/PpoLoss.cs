using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Functional;

/// <summary>
/// The losses of proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347), per token. Take masked means of them.
/// </summary>
public static class PpoLoss
{
    /// <summary>The log-ratio is held within ±20, so that one token cannot make the ratio infinite.</summary>
    private const double LogRatioBound = 20;

    /// <summary>ρ = π(y_t) / π_old(y_t) = exp(log π − log π_old).</summary>
    /// <param name="logProbs">log π now (B, R).</param>
    /// <param name="oldLogProbs">log π when the response was sampled (B, R).</param>
    /// <returns>(B, R), 1 at the first update after a rollout.</returns>
    public static Tensor Ratio(Tensor logProbs, Tensor oldLogProbs)
    {
        using var scope = NewDisposeScope();
        return (logProbs - oldLogProbs).clamp(-LogRatioBound, LogRatioBound).exp().MoveToOuterDisposeScope();
    }

    /// <summary>
    /// max(−A·ρ, −A·clip(ρ, 1 − ε, 1 + ε_high)), eq. 7 with its sign turned; the second ε is DAPO's (arXiv 2503.14476, eq. 8).
    /// </summary>
    /// <param name="ratio">ρ (B, R), or (B) where a response has one.</param>
    /// <param name="advantages">A, of the same shape, or (B, 1) where all tokens of a response share one.</param>
    /// <param name="clipRange">ε, above 0; 0.2 in the paper and in every RLHF codebase.</param>
    /// <param name="clipRangeHigh">ε_high, above 0; null for ε. DAPO's is 0.28, so that unlikely tokens can still grow.</param>
    /// <returns>The shape of <paramref name="ratio"/>.</returns>
    public static Tensor Policy(Tensor ratio, Tensor advantages, double clipRange, double? clipRangeHigh = null)
    {
        using var scope = NewDisposeScope();
        var clipped = ratio.clamp(1 - clipRange, 1 + (clipRangeHigh ?? clipRange));
        return maximum(-advantages * ratio, -advantages * clipped).MoveToOuterDisposeScope();
    }

    /// <summary>
    /// Which tokens have a policy loss that clipping made larger, so that they teach nothing (<c>policy/clipfrac</c> of
    /// lm-human-preferences and TRL counts these). A ratio that is out of range on the harmful side is not among them.
    /// </summary>
    /// <returns>bool, the shape of <paramref name="ratio"/>.</returns>
    internal static Tensor PolicyIsClipped(Tensor ratio, Tensor advantages, double clipRange, double? clipRangeHigh = null)
    {
        using var scope = NewDisposeScope();
        var clipped = ratio.clamp(1 - clipRange, 1 + (clipRangeHigh ?? clipRange));
        return (-advantages * clipped > -advantages * ratio).MoveToOuterDisposeScope();
    }

    /// <summary>½·max((V − R)², (V_old + clip(V − V_old, ±ε) − R)²) (OpenAI baselines, lm-human-preferences).</summary>
    /// <param name="values">V now (B, R).</param>
    /// <param name="oldValues">V at the rollout (B, R).</param>
    /// <param name="returns">R (B, R).</param>
    /// <param name="clipRange">ε, above 0; 0.2 as the policy's.</param>
    /// <returns>(B, R).</returns>
    public static Tensor Value(Tensor values, Tensor oldValues, Tensor returns, double clipRange)
    {
        using var scope = NewDisposeScope();
        var clipped = oldValues + (values - oldValues).clamp(-clipRange, clipRange);
        return (maximum((values - returns).square(), (clipped - returns).square()) * 0.5).MoveToOuterDisposeScope();
    }

    /// <summary>Which tokens have a value loss that clipping made larger (<c>val/clipfrac</c>).</summary>
    /// <returns>bool (B, R).</returns>
    internal static Tensor ValueIsClipped(Tensor values, Tensor oldValues, Tensor returns, double clipRange)
    {
        using var scope = NewDisposeScope();
        var clipped = oldValues + (values - oldValues).clamp(-clipRange, clipRange);
        return ((clipped - returns).square() > (values - returns).square()).MoveToOuterDisposeScope();
    }
}
