using System.Text.Json.Serialization;

namespace ML.Rlhf.Torch;

/// <summary>
/// A small random number generator whose state is one number (SplitMix64: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number
/// generators"). Streams with different keys are independent, so each row of a batch can have its own, and a completion does not
/// depend on which rows happened to stand beside it.
/// </summary>
internal struct RandomStream
{
    private const ulong GoldenGamma = 0x9E3779B97F4A7C15;
    [JsonInclude]
    private ulong _state;

    public RandomStream(ulong seed, ulong key = 0) => _state = Mix(seed + GoldenGamma) ^ Mix(key * GoldenGamma + 1);

    public ulong NextUInt64() => Mix(_state += GoldenGamma);

    /// <summary>A number in [0, 1) with 23 bits: u·x stays below x in float32 for every positive x.</summary>
    public float NextSingle() => (NextUInt64() >> 41) * (1f / (1 << 23));

    /// <summary>An integer in [0, bound), without bias (Lemire 2019).</summary>
    public int NextInt32(int bound)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(bound);
        ulong high = Math.BigMul(NextUInt64(), (ulong)bound, out ulong low);
        while (low < (ulong)bound && low < (0 - (ulong)bound) % (ulong)bound)
            high = Math.BigMul(NextUInt64(), (ulong)bound, out low);
        return (int)high;
    }

    /// <summary>A random order of 0 … count − 1 (Fisher and Yates).</summary>
    public int[] Permutation(int count)
    {
        var order = new int[count];
        for (int i = 0; i < count; i++)
        {
            int j = NextInt32(i + 1);
            order[i] = order[j];
            order[j] = i;
        }
        return order;
    }

    private static ulong Mix(ulong z)
    {
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
        return z ^ (z >> 31);
    }
}
