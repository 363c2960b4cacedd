using TorchSharp;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace ML.Rlhf.Torch.Functional;

/// <summary>The loss of models that predict tokens.</summary>
public static class LanguageModelLoss
{
    /// <summary>
    /// Σ −log softmax(logits)[label], over rows that have a label. Divide by the label count of the whole batch, not of a micro-batch.
    /// With label smoothing ε it is Σ (1 − ε)·(−log p[label]) + ε·mean over v of −log p[v] (Szegedy et al. 2015, arXiv 1512.00567,
    /// section 7).
    /// </summary>
    /// <param name="logits">(N, V): only positions that have a label.</param>
    /// <param name="labels">int64 (N).</param>
    /// <param name="labelSmoothing">ε in [0, 1]; 0, the default, is none.</param>
    /// <returns>A scalar sum, in nats.</returns>
    public static Tensor CrossEntropySum(Tensor logits, Tensor labels, double labelSmoothing = 0) => functional.cross_entropy(
        logits, labels, reduction: Reduction.Sum, label_smoothing: labelSmoothing);
}
