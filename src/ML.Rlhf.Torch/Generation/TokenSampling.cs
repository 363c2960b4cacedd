using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Generation;

/// <summary>From logits to the next token: pure functions.</summary>
internal static class TokenSampling
{
    /// <summary>Divides by the temperature and removes (sets to −∞) what top-k and top-p leave out, in that order.</summary>
    /// <param name="logits">(B, V).</param>
    /// <param name="options">Temperature above 0.</param>
    /// <returns>(B, V).</returns>
    public static Tensor Shape(Tensor logits, SamplingOptions options)
    {
        using var scope = NewDisposeScope();
        var shaped = logits / options.Temperature; // also when it is 1: the caller's own tensor must stay in its scope
        if (options.TopK > 0 && options.TopK < logits.shape[^1])
            shaped = KeepTopK(shaped, options.TopK);
        if (options.TopP < 1)
            shaped = KeepTopP(shaped, options.TopP);
        return shaped.MoveToOuterDisposeScope();
    }

    /// <summary>Removes logits below the k-th largest; ties with it stay.</summary>
    private static Tensor KeepTopK(Tensor logits, int k)
    {
        var (top, _) = logits.topk(k, -1);
        return logits.masked_fill(logits < top[TensorIndex.Ellipsis, (k - 1)..], double.NegativeInfinity);
    }

    /// <summary>
    /// Removes the tail of the sorted distribution whose probabilities sum to at most 1 − p. The likeliest token always stays.
    /// </summary>
    private static Tensor KeepTopP(Tensor logits, float p)
    {
        var (ascending, order) = logits.sort(-1, descending: false);
        var removed = ascending.softmax(-1).cumsum(-1) <= 1 - p;                              // (B, V), in sorted order
        removed[TensorIndex.Ellipsis, -1] = false;
        return logits.masked_fill(removed.scatter(-1, order, removed), double.NegativeInfinity);
    }

    /// <summary>The token at which the cumulative distribution passes u: one draw per row by inversion.</summary>
    /// <param name="shaped">Logits from <see cref="Shape"/> (B, V).</param>
    /// <param name="uniforms">One number in [0, 1) per row (B, 1).</param>
    /// <returns>int64 (B).</returns>
    public static Tensor Draw(Tensor shaped, Tensor uniforms)
    {
        using var scope = NewDisposeScope();
        var cumulative = shaped.softmax(-1).cumsum(-1);                                       // (B, V)
        var threshold = uniforms * cumulative[TensorIndex.Ellipsis, -1].unsqueeze(-1);        // (B, 1): the sum is 1 but for rounding
        return (cumulative <= threshold).sum(-1).MoveToOuterDisposeScope();
    }
}
