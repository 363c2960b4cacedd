using System.Runtime.Intrinsics;

namespace ML.Rlhf.Torch.Generation;

/// <summary>
/// What sampling computes of rows of numbers, 16 at a time. A machine with shorter vectors takes several for 16 numbers, and adds in the
/// same order.
/// </summary>
internal static class FloatSpans
{
    /// <summary>Numbers that are added in float32 before their sum is added in float64: fast, and right to 1e-7 for any vocabulary.</summary>
    public const int Block = 64;

    private static readonly int s_width = Vector512<float>.Count;

    /// <summary>The largest number; NaN if there is one.</summary>
    public static float Max(ReadOnlySpan<float> numbers)
    {
        float max = float.NegativeInfinity;
        int i = 0;
        if (numbers.Length >= s_width)
        {
            var largest = Vector512.Create(numbers);
            for (i = s_width; i <= numbers.Length - s_width; i += s_width)
                largest = Vector512.Max(largest, Vector512.Create(numbers[i..]));
            for (int lane = 0; lane < s_width; lane++)
                max = MathF.Max(max, largest[lane]);
        }
        for (; i < numbers.Length; i++)
            max = MathF.Max(max, numbers[i]);
        return max;
    }

    /// <summary>Divides in place.</summary>
    public static void Divide(Span<float> numbers, float divisor)
    {
        int i = 0;
        for (; i <= numbers.Length - s_width; i += s_width)
            (Vector512.Create((ReadOnlySpan<float>)numbers[i..]) / divisor).CopyTo(numbers[i..]);
        for (; i < numbers.Length; i++)
            numbers[i] /= divisor;
    }

    /// <summary>exp(number − offset) of each.</summary>
    public static void Exponentiate(ReadOnlySpan<float> numbers, float offset, Span<float> results)
    {
        int i = 0;
        for (; i <= numbers.Length - s_width; i += s_width)
            Vector512.Exp(Vector512.Create(numbers[i..]) - Vector512.Create(offset)).CopyTo(results[i..]);
        for (; i < numbers.Length; i++)
            results[i] = MathF.Exp(numbers[i] - offset);
    }

    /// <summary>The sum, block by block.</summary>
    public static double Sum(ReadOnlySpan<float> numbers)
    {
        double sum = 0;
        for (; numbers.Length > Block; numbers = numbers[Block..])
            sum += SumOfBlock(numbers[..Block]);
        return sum + SumOfBlock(numbers);
    }

    /// <summary>The sum of at most <see cref="Block"/> numbers.</summary>
    public static float SumOfBlock(ReadOnlySpan<float> numbers)
    {
        var sums = Vector512<float>.Zero;
        for (; numbers.Length >= s_width; numbers = numbers[s_width..])
            sums += Vector512.Create(numbers);
        float sum = Vector512.Sum(sums);
        foreach (float number in numbers)
            sum += number;
        return sum;
    }

    /// <summary>The first place from <paramref name="start"/> on that holds no number below the threshold; the length if there is none.</summary>
    public static int SkipBelow(float threshold, ReadOnlySpan<float> numbers, int start, int length)
    {
        var limit = Vector512.Create(threshold);
        int i = start;
        while (i <= length - s_width && Vector512.LessThanAll(Vector512.Create(numbers[i..]), limit))
            i += s_width;
        while (i < length && numbers[i] < threshold)
            i++;
        return i;
    }
}
