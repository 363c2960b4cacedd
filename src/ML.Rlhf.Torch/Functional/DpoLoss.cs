using TorchSharp;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace ML.Rlhf.Torch.Functional;

/// <summary>
/// Losses of direct preference optimisation. With h = log π(y|x) − log π_ref(y|x), the log-ratio of an answer, each is a function of
/// h_chosen − h_rejected; β·h is the implicit reward of the answer (Rafailov et al. 2023, arXiv 2305.18290).
/// </summary>
public static class DpoLoss
{
    /// <summary>
    /// −(1 − ε)·log σ(βΔ) − ε·log σ(−βΔ), with Δ = h_chosen − h_rejected (Rafailov et al. 2023, eq. 7; with ε above 0, conservative DPO:
    /// Mitchell 2023, "A note on DPO with noisy preferences"). ln 2 per pair where policy and reference agree.
    /// </summary>
    /// <param name="chosenLogRatios">h of the preferred answers (B): a sum over their tokens.</param>
    /// <param name="rejectedLogRatios">h of the other answers (B).</param>
    /// <param name="beta">β.</param>
    /// <param name="labelSmoothing">ε: how many of the labels are taken to be the wrong way round, in [0, 0.5).</param>
    /// <returns>(B).</returns>
    public static Tensor Sigmoid(Tensor chosenLogRatios, Tensor rejectedLogRatios, double beta, double labelSmoothing = 0)
    {
        using var scope = NewDisposeScope();
        var logits = beta * (chosenLogRatios - rejectedLogRatios);
        var loss = -functional.logsigmoid(logits);
        if (labelSmoothing > 0)
            loss = (1 - labelSmoothing) * loss - labelSmoothing * functional.logsigmoid(-logits);
        return loss.MoveToOuterDisposeScope();
    }

    /// <summary>
    /// (−(1 − ε)·log σ(βΔ) + ε·log σ(−βΔ)) / (1 − 2ε): the loss whose mean over labels of which a part ε is flipped is that of
    /// <see cref="Sigmoid"/> without flips (Chowdhury et al. 2024, arXiv 2403.00409).
    /// </summary>
    /// <inheritdoc cref="Sigmoid"/>
    public static Tensor Robust(Tensor chosenLogRatios, Tensor rejectedLogRatios, double beta, double labelSmoothing)
    {
        using var scope = NewDisposeScope();
        var logits = beta * (chosenLogRatios - rejectedLogRatios);
        Tensor right = functional.logsigmoid(logits), flipped = functional.logsigmoid(-logits);
        return ((labelSmoothing * flipped - (1 - labelSmoothing) * right) / (1 - 2 * labelSmoothing)).MoveToOuterDisposeScope();
    }

    /// <summary>
    /// max(0, 1 − βΔ), with Δ = h_chosen − h_rejected (SLiC: Zhao et al. 2023, arXiv 2305.10425; with log-ratios: Liu et al. 2023,
    /// arXiv 2309.06657).
    /// </summary>
    /// <param name="chosenLogRatios">h of the preferred answers (B): a sum over their tokens.</param>
    /// <param name="rejectedLogRatios">h of the other answers (B).</param>
    /// <param name="beta">β: one over the margin at which a pair is good enough.</param>
    /// <returns>(B).</returns>
    public static Tensor Hinge(Tensor chosenLogRatios, Tensor rejectedLogRatios, double beta)
    {
        using var scope = NewDisposeScope();
        return (1 - beta * (chosenLogRatios - rejectedLogRatios)).relu().MoveToOuterDisposeScope();
    }

    /// <summary>
    /// (Δ − 1/(2β))², with Δ = h_chosen − h_rejected (Azar et al. 2023, arXiv 2310.12036, eq. 17): a margin to reach and not to exceed.
    /// </summary>
    /// <param name="chosenLogRatios">
    /// h of the preferred answers (B). The authors mean the mean over an answer's tokens, not the sum; TRL takes it so since 2024.
    /// </param>
    /// <param name="rejectedLogRatios">h of the other answers (B), likewise.</param>
    /// <param name="beta">β, the paper's τ.</param>
    /// <returns>(B).</returns>
    public static Tensor Ipo(Tensor chosenLogRatios, Tensor rejectedLogRatios, double beta)
    {
        using var scope = NewDisposeScope();
        return (chosenLogRatios - rejectedLogRatios - 1 / (2 * beta)).square().MoveToOuterDisposeScope();
    }
}
