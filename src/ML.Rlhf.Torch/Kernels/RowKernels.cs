using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace ML.Rlhf.Torch.Kernels;

/// <summary>What is done to single rows of numbers. Widths are multiples of 16.</summary>
internal static unsafe class RowKernels
{
    /// <summary>LayerNorm (Ba et al. 2016, arXiv 1607.06450): (x − mean)/√(variance + ε)·γ + β.</summary>
    /// <param name="x">(width).</param>
    /// <param name="gain">γ (width).</param>
    /// <param name="bias">β (width).</param>
    /// <param name="width">Numbers in the row.</param>
    /// <param name="epsilon">ε.</param>
    /// <param name="y">The normed row, (width).</param>
    /// <param name="mean">Its mean.</param>
    /// <param name="scale">1/√(variance + ε).</param>
    public static void LayerNorm(
        float* x, float* gain, float* bias, int width, float epsilon, ushort* y, out float mean, out float scale)
    {
        Moments(x, width, epsilon, out mean, out scale);
        Norm(x, gain, bias, width, mean, scale, y);
    }

    /// <summary>The same row again, with the moments that were found before.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Norm(float* x, float* gain, float* bias, int width, float mean, float scale, ushort* y)
    {
        var (m, s) = (Vector512.Create(mean), Vector512.Create(scale));
        for (int i = 0; i < width; i += 16)
            Bf16.Store(((Vector512.Load(x + i) - m) * s * Vector512.Load(gain + i)) + Vector512.Load(bias + i), y + i);
    }

    /// <summary>The same in float32.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Norm(float* x, float* gain, float* bias, int width, float mean, float scale, float* y)
    {
        var (m, s) = (Vector512.Create(mean), Vector512.Create(scale));
        for (int i = 0; i < width; i += 16)
            (((Vector512.Load(x + i) - m) * s * Vector512.Load(gain + i)) + Vector512.Load(bias + i)).Store(y + i);
    }

    /// <summary>Mean and 1/√(variance + ε) of a row.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Moments(float* x, int width, float epsilon, out float mean, out float scale)
    {
        var sum = Vector512<float>.Zero;
        for (int i = 0; i < width; i += 16)
            sum += Vector512.Load(x + i);
        mean = Vector512.Sum(sum) / width;
        var (m, squares) = (Vector512.Create(mean), Vector512<float>.Zero);
        for (int i = 0; i < width; i += 16)
        {
            var centered = Vector512.Load(x + i) - m;
            squares = Vector512.FusedMultiplyAdd(centered, centered, squares);
        }
        scale = 1 / MathF.Sqrt((Vector512.Sum(squares) / width) + epsilon);
    }

    /// <summary>
    /// The gradient of LayerNorm: with x̂ = (x − mean)·scale and g = dy·γ, dx = scale·(g − mean(g) − x̂·mean(g·x̂)).
    /// </summary>
    /// <param name="dy">(width).</param>
    /// <param name="x">(width).</param>
    /// <param name="gain">γ (width).</param>
    /// <param name="width">Numbers in the row.</param>
    /// <param name="mean">Of x.</param>
    /// <param name="scale">Of x.</param>
    /// <param name="dx">What is added to, (width).</param>
    /// <param name="dGain">What dy·x̂ is added to, (width).</param>
    /// <param name="dBias">What dy is added to, (width).</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void LayerNormBackward(
        float* dy, float* x, float* gain, int width, float mean, float scale, float* dx, float* dGain, float* dBias)
    {
        var (m, s) = (Vector512.Create(mean), Vector512.Create(scale));
        var (sum, dot) = (Vector512<float>.Zero, Vector512<float>.Zero);
        for (int i = 0; i < width; i += 16)
        {
            var d = Vector512.Load(dy + i);
            var normed = (Vector512.Load(x + i) - m) * s;
            var g = d * Vector512.Load(gain + i);
            sum += g;
            dot = Vector512.FusedMultiplyAdd(g, normed, dot);
            (Vector512.Load(dBias + i) + d).Store(dBias + i);
            Vector512.FusedMultiplyAdd(d, normed, Vector512.Load(dGain + i)).Store(dGain + i);
        }
        var (a, b) = (Vector512.Create(Vector512.Sum(sum) / width), Vector512.Create(Vector512.Sum(dot) / width));
        for (int i = 0; i < width; i += 16)
        {
            var normed = (Vector512.Load(x + i) - m) * s;
            var g = Vector512.Load(dy + i) * Vector512.Load(gain + i);
            (Vector512.Load(dx + i) + (s * (g - a - (normed * b)))).Store(dx + i);
        }
    }

    /// <summary>
    /// GELU's usual approximation, x·σ(2u) with u = √(2/π)·(x + 0.044715·x³) (Hendrycks and Gimpel 2016, arXiv 1606.08415, section 2; it
    /// is written with tanh there: (1 + tanh u)/2 = σ(2u)).
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Gelu(Vector512<float> x) => x * GeluGate(x, x * x);

    /// <summary>Its derivative: σ + x·σ·(1 − σ)·2u′, with u′ = √(2/π)·(1 + 3·0.044715·x²).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> GeluDerivative(Vector512<float> x)
    {
        var square = x * x;
        var gate = GeluGate(x, square);
        var slope = Vector512.FusedMultiplyAdd(square, Vector512.Create(6 * RootTwoOverPi * Cubic), Vector512.Create(2 * RootTwoOverPi));
        return gate + (x * gate * (Vector512<float>.One - gate) * slope);
    }

    private const float RootTwoOverPi = 0.7978845608f, Cubic = 0.044715f;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> GeluGate(Vector512<float> x, Vector512<float> square)
    {
        var minusTwoU = x * Vector512.FusedMultiplyAdd(
            square, Vector512.Create(-2 * RootTwoOverPi * Cubic), Vector512.Create(-2 * RootTwoOverPi));
        return Vector512<float>.One / (Vector512<float>.One + Exp(minusTwoU));
    }

    /// <summary>
    /// eˣ to 2 units in the last place: 2ⁿ·p(r) with n = round(x/ln 2), r = x − n·ln 2 and p the Taylor polynomial of degree 6 on
    /// |r| ≤ ln 2/2. 0 below −87, and no infinity: e⁸⁸ above 88.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Exp(Vector512<float> x)
    {
        x = Vector512.Min(Vector512.Max(x, Vector512.Create(-87.3f)), Vector512.Create(88f));
        var n = Vector512.Round(x * Vector512.Create(1.44269504f));
        var r = Vector512.FusedMultiplyAdd(n, Vector512.Create(-0.693359375f), x);
        r = Vector512.FusedMultiplyAdd(n, Vector512.Create(2.12194440e-4f), r);
        var p = Vector512.FusedMultiplyAdd(r, Vector512.Create(1f / 720), Vector512.Create(1f / 120));
        p = Vector512.FusedMultiplyAdd(p, r, Vector512.Create(1f / 24));
        p = Vector512.FusedMultiplyAdd(p, r, Vector512.Create(1f / 6));
        p = Vector512.FusedMultiplyAdd(p, r, Vector512.Create(0.5f));
        p = Vector512.FusedMultiplyAdd(p, r, Vector512<float>.One);
        p = Vector512.FusedMultiplyAdd(p, r, Vector512<float>.One);
        var power = Vector512.ShiftLeft(Vector512.ConvertToInt32(n) + Vector512.Create(127), 23);
        return p * power.AsSingle();
    }

    /// <summary>The largest of 16 numbers.</summary>
    public static float Max(Vector512<float> numbers)
    {
        var eight = Vector256.Max(numbers.GetLower(), numbers.GetUpper());
        var four = Vector128.Max(eight.GetLower(), eight.GetUpper());
        return MathF.Max(MathF.Max(four[0], four[1]), MathF.Max(four[2], four[3]));
    }
}
