using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Functional;

/// <summary>What a model's logits say about tokens.</summary>
public static class LogProbabilities
{
    /// <summary>log softmax(logits)[token].</summary>
    /// <param name="logits">(…, V), already divided by the temperature.</param>
    /// <param name="tokens">int64 (…).</param>
    /// <returns>(…).</returns>
    public static Tensor OfTokens(Tensor logits, Tensor tokens)
    {
        using var scope = NewDisposeScope();
        return logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1).MoveToOuterDisposeScope();
    }

    /// <summary>Entropy of softmax(logits) in nats: logsumexp(z) − Σ softmax(z)·z.</summary>
    /// <param name="logits">(…, V), already divided by the temperature.</param>
    /// <returns>(…), each in [0, ln V].</returns>
    public static Tensor Entropy(Tensor logits)
    {
        using var scope = NewDisposeScope();
        return (logits.logsumexp(-1) - (logits.softmax(-1) * logits).sum(-1)).MoveToOuterDisposeScope();
    }
}
