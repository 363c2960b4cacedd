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

    /// <summary>KL(p ‖ q) = Σ p·(ln p − ln q) in nats, over the whole vocabulary.</summary>
    /// <param name="logits">Logits of p, (…, V).</param>
    /// <param name="referenceLogits">Logits of q, (…, V).</param>
    /// <returns>(…), each at least 0 but for rounding.</returns>
    public static Tensor Divergence(Tensor logits, Tensor referenceLogits)
    {
        using var scope = NewDisposeScope();
        var logProbs = logits.log_softmax(-1);
        return (logProbs.exp() * (logProbs - referenceLogits.log_softmax(-1))).sum(-1).MoveToOuterDisposeScope();
    }
}
