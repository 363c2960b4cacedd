using ML.Rlhf.Torch.Functional;

namespace ML.Rlhf.Torch.Tests.Functional;

public class BestOfNTests
{
    [Fact]
    public void The_divergence_equals_the_reference() => Assert.All(
        Golden.Load("rl/best_of_n.json")["table"].Items,
        row => Close.Assert(row["kl"].Number, BestOfN.KlBound(row["n"].Integer), relative: 1e-8, what: $"n = {row["n"].Integer}"));

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
    public void No_answer_at_all_is_refused() => Assert.Throws<ArgumentOutOfRangeException>(() => BestOfN.KlBound(0));
}
