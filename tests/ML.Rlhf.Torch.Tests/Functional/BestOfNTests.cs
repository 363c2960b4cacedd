using System.Numerics;
using ML.Rlhf.Torch.Functional;

namespace ML.Rlhf.Torch.Tests.Functional;

public class BestOfNTests
{
    /// <summary>Of V equally likely answers with different scores, the one of rank i is the best of n with ((i+1)/V)ⁿ − (i/V)ⁿ.</summary>
    [Fact]
    public void It_is_the_divergence_of_the_best_of_n_where_many_answers_have_different_scores()
    {
        const int Answers = 100_000;
        foreach (int n in (int[])[1, 2, 4, 16, 64])
        {
            double kl = Enumerable.Range(0, Answers)
                .Select(i => Math.Pow((i + 1.0) / Answers, n) - Math.Pow((double)i / Answers, n)).Where(p => p > 0)
                .Sum(p => p * Math.Log(p * Answers));

            Close.Assert(kl, BestOfN.KlBound(n), relative: 1e-3, absolute: 1e-9, what: $"n = {n}");
            Assert.True(kl <= BestOfN.KlBound(n) + 1e-9, "it is an upper bound");
        }
    }

    [Fact]
    public void The_divergence_of_best_of_n_equals_the_reference()
    {
        var table = Golden.Load("rl/best_of_n.json")["table"].Items.ToList();

        Assert.Equal(20, table.Count);
        foreach (var row in table)
            Close.Assert(row["kl"].Number, BestOfN.KlBound(row["n"].Integer), relative: 1e-8, what: $"n = {row["n"].Integer}");
        Assert.Equal(0, BestOfN.KlBound(1));
        Assert.Throws<ArgumentOutOfRangeException>(() => BestOfN.KlBound(0));
    }

    /// <summary>Two answers, of which a policy gives the better with probability p: the formula bounds the truth.</summary>
    [Theory]
    [InlineData(0.5)]
    [InlineData(0.01)]
    public void The_divergence_is_a_bound_where_answers_repeat(double p)
    {
        foreach (int n in new[] { 2, 4, 16, 64 })
        {
            double worse = Math.Pow(1 - p, n), better = 1 - worse;
            double exact = better * Math.Log(better / p) + worse * Math.Log(worse / (1 - p));

            Assert.InRange(exact, 0, BestOfN.KlBound(n));
        }
    }

    [Theory]
    [InlineData(1, false)]
    [InlineData(2, false)]
    [InlineData(7, false)]
    [InlineData(10, false)]
    [InlineData(7, true)]
    [InlineData(10, true)]
    public void The_expectation_is_the_mean_over_all_subsets(int count, bool ties)
    {
        var random = new Random(count);
        double[] scores = [.. Enumerable.Range(0, count).Select(_ => ties ? random.Next(3) : random.NextDouble())];
        double[] values = [.. Enumerable.Range(0, count).Select(_ => random.NextDouble() - 0.5)];

        for (int n = 1; n <= count; n++)
        {
            var subsets = Enumerable.Range(0, 1 << count).Where(subset => BitOperations.PopCount((uint)subset) == n);
            double expected = subsets.Average(subset =>
            {
                var members = Enumerable.Range(0, count).Where(i => (subset >> i & 1) == 1).ToList();
                double best = members.Max(i => scores[i]);
                return members.Where(i => scores[i] == best).Average(i => values[i]); // of equals, each is taken as often
            });

            Assert.Equal(expected, BestOfN.Expectation(scores, values, n), 1e-12);
        }
    }

    /// <summary>The largest of n numbers that are uniform on (0, 1) is n/(n + 1) on average.</summary>
    [Fact]
    public void The_expectation_is_unbiased_for_many_answers()
    {
        var random = new Random(1);
        for (int n = 1; n <= 512; n *= 2)
        {
            double mean = Enumerable.Range(0, 200).Average(_ =>
            {
                double[] scores = [.. Enumerable.Range(0, 512).Select(_ => random.NextDouble())];
                return BestOfN.Expectation(scores, scores, n);
            });

            Assert.Equal(n / (n + 1.0), mean, 0.005);
        }
    }

    [Fact]
    public void What_does_not_fit_is_an_error()
    {
        double[] two = [1, 2];

        Assert.Contains("n is 3, but must be at least 1 and at most the number of answers, 2.",
            Assert.Throws<ArgumentException>(() => BestOfN.Expectation(two, two, 3)).Message);
        Assert.Throws<ArgumentException>(() => BestOfN.Expectation(two, two, 0));
        Assert.Equal("There are 2 scores, but 1 values; each answer needs both.",
            Assert.Throws<ArgumentException>(() => BestOfN.Expectation(two, [1], 1)).Message);
    }
}
