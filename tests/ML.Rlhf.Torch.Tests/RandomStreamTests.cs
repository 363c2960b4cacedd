namespace ML.Rlhf.Torch.Tests;

public class RandomStreamTests
{
    /// <summary>
    /// The published first outputs of SplitMix64 from state 0 (the test vector that other libraries use as well). Seed 1 with key 1 is the
    /// one pair whose mixed halves are equal and cancel, so its state is 0.
    /// </summary>
    [Fact]
    public void It_is_SplitMix64()
    {
        var random = new RandomStream(seed: 1, key: 1);

        ulong[] first = [random.NextUInt64(), random.NextUInt64(), random.NextUInt64(), random.NextUInt64(), random.NextUInt64()];

        Assert.Equal([0xe220a8397b1dcdaf, 0x6e789e6aa1b965f4, 0x06c45d188009454f, 0xf88bb8a8724c81ec, 0x1b39896a51a8749b], first);
    }

    [Fact]
    public void Seeds_and_keys_give_different_streams_and_the_same_pair_the_same()
    {
        var firsts = new HashSet<ulong>();
        for (ulong seed = 0; seed < 100; seed++)
        {
            for (ulong key = 0; key < 100; key++)
                Assert.True(firsts.Add(new RandomStream(seed, key).NextUInt64()));
        }

        Assert.Equal(new RandomStream(7, 8).NextUInt64(), new RandomStream(7, 8).NextUInt64());
    }

    [Fact]
    public void Singles_lie_in_the_unit_interval_without_its_end_and_are_spread_evenly()
    {
        var random = new RandomStream(3);
        var counts = new long[20];

        for (int i = 0; i < 200_000; i++)
        {
            float u = random.NextSingle();
            Assert.InRange(u, 0, 1 - 1f / (1 << 23));
            counts[(int)(u * 20)]++;
        }

        Assert.InRange(ChiSquare(counts), 0, 50); // 19 degrees of freedom: above 50 once in 10,000 times
    }

    /// <summary>What the sampler relies on: u·x &lt; x for every float32 x above 0.</summary>
    [Fact]
    public void The_largest_single_times_a_number_stays_below_the_number()
    {
        float largest = ((1 << 23) - 1) * (1f / (1 << 23));
        var random = new RandomStream(4);

        for (int i = 0; i < 100_000; i++)
        {
            float x = 0.5f + random.NextSingle();
            Assert.True(largest * x < x);
        }
        Assert.True(largest * MathF.BitDecrement(1) < MathF.BitDecrement(1));
        Assert.True(largest * MathF.BitIncrement(1) < MathF.BitIncrement(1));
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(7)]
    [InlineData(100)]
    public void Integers_are_below_the_bound_and_spread_evenly(int bound)
    {
        var random = new RandomStream(5);
        var counts = new long[bound];

        for (int i = 0; i < 100_000; i++)
            counts[random.NextInt32(bound)]++;

        double freedom = bound - 1;
        Assert.InRange(ChiSquare(counts), 0, freedom + 4 * Math.Sqrt(2 * freedom) + 8);
    }

    [Fact]
    public void The_largest_bound_works_and_an_empty_range_is_refused()
    {
        var random = new RandomStream(6);

        for (int i = 0; i < 1000; i++)
            Assert.InRange(random.NextInt32(int.MaxValue), 0, int.MaxValue - 1);
        Assert.Throws<ArgumentOutOfRangeException>(() => new RandomStream(6).NextInt32(0));
    }

    [Fact]
    public void A_permutation_has_every_index_once_and_every_order_is_as_likely()
    {
        var random = new RandomStream(7);
        var orders = new Dictionary<string, long>();

        for (int i = 0; i < 24_000; i++)
        {
            int[] order = random.Permutation(4);
            Assert.Equal([0, 1, 2, 3], order.Order());
            string key = string.Join(' ', order);
            orders[key] = orders.GetValueOrDefault(key) + 1;
        }

        Assert.Equal(24, orders.Count);
        Assert.InRange(ChiSquare([.. orders.Values]), 0, 56); // 23 degrees of freedom
        Assert.Empty(random.Permutation(0));
    }

    private static double ChiSquare(long[] counts)
    {
        double expected = counts.Average();
        return counts.Sum(count => (count - expected) * (count - expected) / expected);
    }
}
