using System.Diagnostics;
using System.Globalization;
using System.Text.RegularExpressions;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Benchmarks.Measuring;

/// <summary>What the machine can do at best, measured through libtorch.</summary>
/// <param name="Float32">Floating-point operations per second of a float32 matrix product.</param>
/// <param name="BFloat16">The same of a bf16 one.</param>
/// <param name="Bandwidth">Bytes per second from memory.</param>
internal sealed partial record MachineLimit(double Float32, double BFloat16, double Bandwidth)
{
    private const int Repetitions = 10;

    /// <summary>Operations per second in the better precision.</summary>
    public double Compute => Math.Max(Float32, BFloat16);

    /// <summary>The least time for some operations on some bytes.</summary>
    public double Seconds(double operations, double bytes) => Math.Max(operations / Compute, bytes / Bandwidth);

    /// <summary>The better of two measurements: whatever disturbs one makes it worse.</summary>
    public MachineLimit Best(MachineLimit other) =>
        new(Math.Max(Float32, other.Float32), Math.Max(BFloat16, other.BFloat16), Math.Max(Bandwidth, other.Bandwidth));

    public string ToLine() => string.Create(
        CultureInfo.InvariantCulture,
        $"limit fp32={Float32 / 1e9:F0} GFLOP/s bf16={BFloat16 / 1e9:F0} GFLOP/s memory={Bandwidth / 1e9:F1} GB/s");

    /// <exception cref="FormatException">The output has no such line.</exception>
    public static MachineLimit Parse(string output)
    {
        var match = Line().Match(output);
        if (!match.Success)
            throw new FormatException($"There is no line \"limit fp32=…\" in: {output.Trim()}");
        double Number(int group) => 1e9 * double.Parse(match.Groups[group].Value, CultureInfo.InvariantCulture);
        return new MachineLimit(Number(1), Number(2), Number(3));
    }

    public static MachineLimit Measure()
    {
        using var noGrad = inference_mode();
        return new MachineLimit(BestProduct(float32), BestProduct(bfloat16), BestBandwidth());
    }

    /// <summary>The shape of a feed-forward layer of 6 × 384, and a large square.</summary>
    private static double BestProduct(ScalarType type) => Math.Max(Product(4096, 384, 1536, type), Product(2048, 2048, 2048, type));

    private static double Product(long m, long k, long n, ScalarType type)
    {
        using var scope = NewDisposeScope();
        Tensor a = randn(m, k).to(type), b = randn(n, k).to(type).t(); // (out, in), as a linear layer has it
        return 2.0 * m * k * n / BestSeconds(() => a.matmul(b));
    }

    /// <summary>A sum reads; a copy reads and writes. Of more than any cache holds.</summary>
    private static double BestBandwidth()
    {
        using var scope = NewDisposeScope();
        const long Numbers = 1 << 27; // half a gigabyte
        Tensor from = ones(Numbers), to = ones(Numbers); // zeros would be one page of memory, many times
        return Math.Max(4.0 * Numbers / BestSeconds(() => from.sum()), 8.0 * Numbers / BestSeconds(() => to.copy_(from)));
    }

    private static double BestSeconds(Action run)
    {
        double best = double.PositiveInfinity;
        for (int i = 0; i < Repetitions; i++)
        {
            using var scope = NewDisposeScope();
            long start = Stopwatch.GetTimestamp();
            run();
            best = Math.Min(best, Stopwatch.GetElapsedTime(start).TotalSeconds);
        }
        return best;
    }

    [GeneratedRegex(@"^limit fp32=([\d.]+) GFLOP/s bf16=([\d.]+) GFLOP/s memory=([\d.]+) GB/s", RegexOptions.Multiline)]
    private static partial Regex Line();
}
