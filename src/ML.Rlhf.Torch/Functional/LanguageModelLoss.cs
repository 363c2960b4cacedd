using TorchSharp;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace ML.Rlhf.Torch.Functional;

/// <summary>The loss of pretraining and supervised fine-tuning.</summary>
public static class LanguageModelLoss
{
    /// <summary>
    /// Σ −log softmax(logits)[label], over rows that have a label. Divide by the label count of the whole batch, not of a micro-batch.
    /// </summary>
    /// <param name="logits">(N, V): only positions that have a label.</param>
    /// <param name="labels">int64 (N).</param>
    /// <returns>A scalar sum, in nats.</returns>
    public static Tensor CrossEntropySum(Tensor logits, Tensor labels) => functional.cross_entropy(logits, labels,
        reduction: Reduction.Sum);
}
