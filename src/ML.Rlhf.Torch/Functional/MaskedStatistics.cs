using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Functional;

/// <summary>Statistics over the real tokens of a padded batch. A mask is 1 where a token is real and 0 where it is padding.</summary>
public static class MaskedStatistics
{
    /// <summary>Σ(x·m) / Σm.</summary>
    /// <param name="values">Any shape.</param>
    /// <param name="mask">Same shape, 0 or 1, with at least one 1.</param>
    /// <returns>A scalar.</returns>
    public static Tensor Mean(Tensor values, Tensor mask)
    {
        using var scope = NewDisposeScope();
        return ((values * mask).sum() / mask.sum()).MoveToOuterDisposeScope();
    }

    /// <summary>Variance around the masked mean.</summary>
    /// <param name="values">Any shape.</param>
    /// <param name="mask">Same shape, 0 or 1.</param>
    /// <param name="unbiased">
    /// False divides by n, as lm-human-preferences and both "N implementation details" reproductions do; true by n − 1 (TRL).
    /// </param>
    /// <returns>A scalar.</returns>
    /// <exception cref="ArgumentException"><paramref name="unbiased"/>, and fewer than two tokens are real.</exception>
    public static Tensor Variance(Tensor values, Tensor mask, bool unbiased = false)
    {
        using var scope = NewDisposeScope();
        var variance = Mean((values - Mean(values, mask)).square(), mask);
        if (unbiased)
        {
            double n = mask.sum().ToDouble();
            if (n < 2)
                throw new ArgumentException($"The unbiased variance needs at least 2 real tokens, but the mask has {n}. Use unbiased: " +
                    "false, or a larger batch.");
            variance = variance * (n / (n - 1));
        }
        return variance.MoveToOuterDisposeScope();
    }

    /// <summary>(x − μ) / √(σ² + 1e-8), over the real tokens. Padding is transformed too; mask it afterwards.</summary>
    /// <param name="values">Any shape.</param>
    /// <param name="mask">Same shape, 0 or 1.</param>
    /// <param name="shiftMean">False adds μ back, so that only the scale changes (used for rewards).</param>
    /// <param name="unbiased">As in <see cref="Variance"/>.</param>
    /// <returns>Same shape as <paramref name="values"/>.</returns>
    public static Tensor Whiten(Tensor values, Tensor mask, bool shiftMean = true, bool unbiased = false)
    {
        using var scope = NewDisposeScope();
        var mean = Mean(values, mask);
        var whitened = (values - mean) * (Variance(values, mask, unbiased) + 1e-8).rsqrt();
        return (shiftMean ? whitened : whitened + mean).MoveToOuterDisposeScope();
    }
}
