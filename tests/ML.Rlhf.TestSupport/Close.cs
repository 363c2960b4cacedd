using System.Globalization;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.TestSupport;

/// <summary>Numbers that should agree but for rounding: |actual − expected| ≤ absolute + relative·|expected|.</summary>
internal static class Close
{
    /// <summary>
    /// Compares element by element; NaN equals NaN, and infinities equal themselves. The message names the worst element.
    /// </summary>
    /// <param name="expected">What it should be; its type may differ from <paramref name="actual"/>'s.</param>
    /// <param name="actual">What we computed, of the same shape.</param>
    /// <param name="relative">Tolerance as a part of the expected number.</param>
    /// <param name="absolute">Tolerance for numbers near zero.</param>
    /// <param name="what">What is compared.</param>
    public static void Assert(Tensor expected, Tensor actual, double relative = 0, double absolute = 0, string what = "tensor")
    {
        if (!expected.shape.SequenceEqual(actual.shape))
            throw new CloseException($"{what}: expected shape {Shape(expected)}, but got {Shape(actual)}.");
        double[] wanted = ToDoubles(expected), got = ToDoubles(actual);
        int worst = -1;
        double worstExcess = 0;
        for (int i = 0; i < wanted.Length; i++)
        {
            double excess = Excess(wanted[i], got[i], relative, absolute);
            if (excess > worstExcess)
                (worst, worstExcess) = (i, excess);
        }
        if (worst >= 0)
            throw new CloseException(Message($"{what}[{Index(worst, expected.shape)}]", wanted[worst], got[worst], relative, absolute));
    }

    /// <summary>Type, shape and every bit agree; strides and devices may differ.</summary>
    public static void AssertSameBits(Tensor expected, Tensor actual, string what = "tensor")
    {
        using var scope = NewDisposeScope();
        if (expected.dtype != actual.dtype || !expected.shape.SequenceEqual(actual.shape)
            || !expected.detach().cpu().contiguous().bytes.SequenceEqual(actual.detach().cpu().contiguous().bytes))
            throw new CloseException(
                $"{what}: bits, type or shape differ ({expected.dtype} {Shape(expected)}, {actual.dtype} {Shape(actual)}).");
    }

    public static void Assert(double expected, double actual, double relative = 0, double absolute = 0, string what = "number")
    {
        if (Excess(expected, actual, relative, absolute) > 0)
            throw new CloseException(Message(what, expected, actual, relative, absolute));
    }

    /// <summary>The largest |a − b|.</summary>
    public static double Distance(Tensor a, Tensor b)
    {
        using var scope = NewDisposeScope();
        return (a - b).abs().max().to(float64).item<double>();
    }

    private static double Excess(double expected, double actual, double relative, double absolute)
    {
        if (expected.Equals(actual))
            return 0;
        double excess = Math.Abs(actual - expected) - (absolute + relative * Math.Abs(expected));
        return double.IsNaN(excess) ? double.PositiveInfinity : excess;
    }

    private static string Message(string what, double expected, double actual, double relative, double absolute) => string.Create(
        CultureInfo.InvariantCulture,
        $"{what}: expected {expected:G9}, but got {actual:G9}: off by {Math.Abs(actual - expected):G3}, " +
        $"allowed are {absolute:G3} + {relative:G3}·|expected|.");

    private static string Shape(Tensor tensor) => $"[{string.Join(", ", tensor.shape)}]";

    private static string Index(long flat, long[] shape)
    {
        var index = new long[shape.Length];
        for (int d = shape.Length - 1; d >= 0; d--)
            (flat, index[d]) = Math.DivRem(flat, shape[d]);
        return string.Join(", ", index);
    }

    private static double[] ToDoubles(Tensor tensor)
    {
        using var scope = NewDisposeScope();
        return tensor.detach().to(float64).cpu().contiguous().data<double>().ToArray();
    }
}

/// <summary>Numbers differ by more than a test allows.</summary>
internal sealed class CloseException(string message) : Exception(message);
