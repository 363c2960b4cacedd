using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Functional;

/// <summary>
/// The loss of Kahneman–Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306, section 4), for answers that were judged one by
/// one. h = log π(y|x) − log π_ref(y|x) is the log-ratio of an answer.
/// </summary>
public static class KtoLoss
{
    /// <summary>
    /// 1 − σ(β(h − z)) for a desirable answer, 1 − σ(β(z − h)) for an undesirable one: what an answer is worth saturates on both sides
    /// of the reference point z. ½ per answer where policy and reference agree.
    /// </summary>
    /// <param name="logRatios">h (B): sums over the answers' tokens.</param>
    /// <param name="desirable">Bool (B).</param>
    /// <param name="referencePoint">z, a scalar without gradient: <see cref="ReferencePoint"/>.</param>
    /// <param name="beta">β.</param>
    /// <returns>(B), each in (0, 1).</returns>
    public static Tensor PerAnswer(Tensor logRatios, Tensor desirable, Tensor referencePoint, double beta)
    {
        using var scope = NewDisposeScope();
        var sign = 2 * desirable.to(logRatios.dtype) - 1;
        return (1 - (beta * sign * (logRatios - referencePoint)).sigmoid()).MoveToOuterDisposeScope();
    }

    /// <summary>
    /// z = max(0, mean h over prompts with answers to other prompts): an estimate of KL(π ‖ π_ref) that needs no sampling, biased, which
    /// is why it is cut at 0.
    /// </summary>
    /// <param name="logRatios">h of mismatched pairs (B).</param>
    /// <returns>A scalar, without gradient.</returns>
    public static Tensor ReferencePoint(Tensor logRatios)
    {
        using var scope = NewDisposeScope();
        return logRatios.detach().mean().clamp(min: 0).MoveToOuterDisposeScope();
    }
}
