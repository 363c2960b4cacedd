using System.Numerics;
using System.Runtime.CompilerServices;

namespace ML.Rlhf.Torch.Kernels;

/// <summary>The numbers of one step of AdamW over flat buffers in the processor's memory.</summary>
internal unsafe struct AdamWStep
{
    /// <summary>Buffers of <see cref="Count"/> numbers.</summary>
    public float* Values, Gradients, Mean, Square;

    public long Count;

    /// <summary>How many numbers at the front are multiplied with <see cref="Keep"/> (weight decay) first.</summary>
    public long Decaying;

    public float Keep;

    /// <summary>What the gradient is multiplied with: below 1 where it is clipped.</summary>
    public float Scale;

    public float Beta1, Beta2;

    /// <summary>1 − β, rounded from double: float's own difference would be off by its rounding of β.</summary>
    public float Rest1, Rest2;

    /// <summary>lr/(1 − β₁ᵗ).</summary>
    public float Rate;

    /// <summary>1/√(1 − β₂ᵗ).</summary>
    public float RootScale;

    public float Epsilon;
}

/// <summary>
/// AdamW and the gradient's norm, each as one pass that reads and writes every array once: the memory's speed is the limit. It runs on any
/// processor, with vectors as wide as it has. Blocks do not depend on the number of threads, so neither does any bit.
/// </summary>
internal static unsafe class AdamWKernel
{
    private const int Block = 16 * 1024;

    /// <summary>Of how many blocks the norm is summed.</summary>
    public static int Blocks(long count) => checked((int)((count + Block - 1) / Block));

    /// <summary>Takes a step.</summary>
    public static void Run(AdamWStep step) => Team.Run(Blocks(step.Count), &StepBlock, &step);

    /// <summary>Σ x², in double: first within blocks, then over them in their order.</summary>
    /// <param name="numbers">The numbers.</param>
    /// <param name="count">How many.</param>
    /// <param name="sums">Room for one number per block.</param>
    public static double SquareSum(float* numbers, long count, double[] sums)
    {
        fixed (double* partial = sums)
        {
            var work = new SumWork { Numbers = numbers, Count = count, Sums = partial };
            Team.Run(Blocks(count), &SumBlock, &work);
        }
        double sum = 0;
        for (int block = 0; block < Blocks(count); block++)
            sum += sums[block];
        return sum;
    }

    private struct SumWork
    {
        public float* Numbers;
        public long Count;
        public double* Sums;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void SumBlock(void* context, int piece, int thread)
    {
        var work = (SumWork*)context;
        float* x = work->Numbers + ((long)piece * Block);
        int count = (int)Math.Min(Block, work->Count - ((long)piece * Block)), i = 0;
        Vector<double> low = default, high = default;
        for (; i <= count - Vector<float>.Count; i += Vector<float>.Count)
        {
            Vector.Widen(Vector.Load(x + i), out var first, out var second);
            low += first * first;
            high += second * second;
        }
        double sum = Vector.Sum(low + high);
        for (; i < count; i++)
            sum += (double)x[i] * x[i];
        work->Sums[piece] = sum;
    }

    private static void StepBlock(void* context, int piece, int thread)
    {
        ref var step = ref *(AdamWStep*)context;
        long from = (long)piece * Block, to = Math.Min(from + Block, step.Count), middle = Math.Clamp(step.Decaying, from, to);
        Update(step, from, (int)(middle - from), step.Keep);
        Update(step, middle, (int)(to - middle), 1);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Update(in AdamWStep step, long from, int count, float keep)
    {
        float* values = step.Values + from, gradients = step.Gradients + from, mean = step.Mean + from, square = step.Square + from;
        float scale = step.Scale, beta1 = step.Beta1, beta2 = step.Beta2, rest1 = step.Rest1, rest2 = step.Rest2;
        float rate = step.Rate, rootScale = step.RootScale;
        var epsilon = new Vector<float>(step.Epsilon);
        int i = 0;
        for (; i <= count - Vector<float>.Count; i += Vector<float>.Count)
        {
            var g = Vector.Load(gradients + i) * scale;
            var m = (Vector.Load(mean + i) * beta1) + (g * rest1);
            var v = (Vector.Load(square + i) * beta2) + (g * g * rest2);
            var x = (Vector.Load(values + i) * keep) - (m / ((Vector.SquareRoot(v) * rootScale) + epsilon) * rate);
            Vector.Store(m, mean + i);
            Vector.Store(v, square + i);
            Vector.Store(x, values + i);
        }
        for (; i < count; i++)
        {
            float g = gradients[i] * scale;
            mean[i] = (mean[i] * beta1) + (g * rest1);
            square[i] = (square[i] * beta2) + (g * g * rest2);
            values[i] = (values[i] * keep) - (mean[i] / ((MathF.Sqrt(square[i]) * rootScale) + step.Epsilon) * rate);
        }
    }
}
