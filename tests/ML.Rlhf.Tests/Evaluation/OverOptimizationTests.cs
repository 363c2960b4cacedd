using Microsoft.ML;
using TorchSharp;

namespace ML.Rlhf.Tests.Evaluation;

public sealed class OverOptimizationTests
{
    private readonly MLContext _ml = new(seed: 1);

    private RlhfCatalog Rlhf => _ml.Rlhf();

    private IDataView Prompts => _ml.Data.LoadFromEnumerable(Tiny.Prompts);

    private Reward Vowels => Rlhf.Rewards.FromFunction((_, answer) => answer.Count(c => "aeiou".Contains(c)));

    private Reward Length => Rlhf.Rewards.FromFunction((_, answer) => answer.Length);

    /// <summary>The forms as the paper writes them.</summary>
    private static double Gold(OverOptimizationForm form, double alpha, double beta, double kl)
    {
        double d = Math.Sqrt(kl);
        if (d == 0)
            return 0;
        return form == OverOptimizationForm.BestOfN ? d * (alpha - beta * d) : d * (alpha - beta * Math.Log(d));
    }

    [Theory]
    [InlineData(OverOptimizationForm.BestOfN, 1.3, 0.4)]
    [InlineData(OverOptimizationForm.BestOfN, -0.2, 0.7)]
    [InlineData(OverOptimizationForm.BestOfN, 2, -0.1)]
    [InlineData(OverOptimizationForm.ReinforcementLearning, 1.3, 0.4)]
    [InlineData(OverOptimizationForm.ReinforcementLearning, -0.2, 0.7)]
    [InlineData(OverOptimizationForm.ReinforcementLearning, 2, 0)]
    public void A_fit_recovers_what_made_the_points(OverOptimizationForm form, double alpha, double beta)
    {
        double[] kls = [0, 0.2, 0.7, 1, 3, 9, 40];

        var fit = OverOptimization.Fit(kls.Select(kl => (kl, Gold(form, alpha, beta, kl))), form);

        Assert.Equal(alpha, fit.Alpha, 1e-12);
        Assert.Equal(beta, fit.Beta, 1e-12);
        Assert.Equal(1, fit.RSquared, 1e-12);
        Assert.All(kls, kl => Assert.Equal(Gold(form, alpha, beta, kl), fit.At(kl), 1e-11));
    }

    [Theory]
    [InlineData(OverOptimizationForm.BestOfN)]
    [InlineData(OverOptimizationForm.ReinforcementLearning)]
    public void No_other_curve_is_nearer_to_noisy_points(OverOptimizationForm form)
    {
        var random = new Random(1);
        (double Kl, double Gain)[] points = [.. Enumerable.Range(1, 12).Select(kl => ((double)kl, random.NextDouble()))];

        var fit = OverOptimization.Fit(points, form);

        double Error(double alpha, double beta) => points.Sum(p => Math.Pow(Gold(form, alpha, beta, p.Kl) - p.Gain, 2));
        double best = Error(fit.Alpha, fit.Beta), mean = points.Average(p => p.Gain);
        Assert.Equal(1 - best / points.Sum(p => Math.Pow(p.Gain - mean, 2)), fit.RSquared, 1e-12);
        foreach (var (a, b) in new[] { (1e-3, 0.0), (-1e-3, 0), (0, 1e-3), (0, -1e-3), (1e-3, 1e-3), (-1e-3, -1e-3) })
            Assert.InRange(Error(fit.Alpha + a, fit.Beta + b), best + 1e-9, 100);
    }

    [Theory]
    [InlineData(OverOptimizationForm.BestOfN, 1.3, 0.4)]
    [InlineData(OverOptimizationForm.ReinforcementLearning, 1.3, 0.4)]
    [InlineData(OverOptimizationForm.ReinforcementLearning, -0.2, 0.4)]
    public void The_peak_is_where_the_curve_is_highest(OverOptimizationForm form, double alpha, double beta)
    {
        var fit = new OverOptimizationFit { Form = form, Alpha = alpha, Beta = beta, RSquared = 1 };

        double[] around = [.. new[] { -1e-3, 0, 1e-3 }.Select(step => fit.At(Math.Pow(fit.PeakDistance + step, 2)))];

        Assert.InRange(around[1], Math.Max(around[0], around[2]), 10);
    }

    [Theory]
    [InlineData(1, -0.1, double.PositiveInfinity)]
    [InlineData(1, 0, double.PositiveInfinity)]
    [InlineData(-1, 0, 0)]
    [InlineData(-1, 0.5, 0)] // best-of-n only: d·(−1 − 0.5·d)
    public void A_curve_without_a_peak_has_it_at_an_end(double alpha, double beta, double peak) => Assert.Equal(
        peak, new OverOptimizationFit { Form = OverOptimizationForm.BestOfN, Alpha = alpha, Beta = beta, RSquared = 1 }.PeakDistance);

    [Fact]
    public void Too_few_points_and_points_that_cannot_be_are_errors()
    {
        const string TooFew = "A curve with two parameters needs at least two points with different divergences above 0.";
        Assert.StartsWith(TooFew, FitError((0, 0), (1, 2)));
        Assert.StartsWith(TooFew, FitError((1, 2), (1, 3)));
        Assert.StartsWith("A point has the divergence -1 and the gain 2, but both must be finite", FitError((1, 2), (-1, 2)));
        Assert.StartsWith("A point has the divergence 1 and the gain NaN,", FitError((1, double.NaN), (2, 2)));
        Assert.StartsWith("A point has the divergence NaN and", FitError((double.NaN, 1), (2, 2)));

        static string FitError(params (double, double)[] points) =>
            Assert.Throws<ArgumentException>("points", () => OverOptimization.Fit(points, OverOptimizationForm.BestOfN)).Message;
    }

    [Fact]
    public void Best_of_1_is_the_policy_and_best_of_all_samples_is_the_transformer()
    {
        using var best = Rlhf.Transforms.BestOfN(Tiny.Model, Tiny.Reward, 8);
        string[] prompts = [.. Tiny.Prompts.Select(p => p.Prompt)];

        var points = Rlhf.EvaluateBestOfN(Tiny.Model, Rlhf.Rewards.FromTransformer(Tiny.Reward), Vowels, Prompts, samples: 8, n: [1, 8]);

        var chosen = best.Generate(prompts);
        Assert.Equal(chosen.Average(answer => answer.Score), points[1].ProxyScore, 1e-4);
        Assert.Equal(chosen.Average(answer => answer.Completion.Count(c => "aeiou".Contains(c))), points[1].GoldScore, 1e-9);
        Assert.Equal((1, 8), (points[0].N, points[1].N));
        Assert.Equal((0, best.Kl), (points[0].Kl, points[1].Kl));
        Assert.InRange(points[1].ProxyScore, points[0].ProxyScore + 0.1, 10);
    }

    [Fact]
    public void More_answers_raise_the_proxy_and_what_goes_with_it()
    {
        var points = Rlhf.EvaluateBestOfN(Tiny.Model, Vowels, Length, Prompts, samples: 32);

        Assert.Equal([1, 2, 4, 8, 16, 32], points.Select(p => p.N));
        Assert.All(points.Zip(points.Skip(1)), pair => Assert.InRange(pair.Second.ProxyScore, pair.First.ProxyScore, 6));
        Assert.InRange(points[^1].GoldScore, points[0].GoldScore + 0.1, 6);
        Assert.All(points, p => Assert.InRange(p.GoldStandardError, 0, 1));
        Assert.InRange(points[0].ProxyStandardError, 0.01, 0.5);
    }

    [Fact]
    public void The_standard_error_is_that_of_the_mean_over_prompts()
    {
        var lengthOfPrompt = Rlhf.Rewards.FromFunction((prompt, _) => prompt.Length);
        var prompts = _ml.View("a", "abc", "abcd", "abcdef"); // mean 3.5, variance 13/3

        var point = Rlhf.EvaluateBestOfN(Tiny.Model, lengthOfPrompt, lengthOfPrompt, prompts, samples: 3, n: [2]).Single();

        Assert.Equal((3.5, 3.5), (point.ProxyScore, point.GoldScore));
        Assert.Equal(Math.Sqrt(13 / 3.0 / 4), point.GoldStandardError, 1e-12);
        Assert.True(double.IsNaN(Rlhf.EvaluateBestOfN(Tiny.Model, Length, Length, _ml.View("a"), samples: 2)[0].GoldStandardError));
    }

    [Fact]
    public void A_policy_is_a_point_with_its_own_divergence()
    {
        using var other = Tiny.Train(seed: 2);

        var point = Rlhf.EvaluateOverOptimization(other, Tiny.Model, Vowels, Length, Prompts);
        var start = Rlhf.EvaluateOverOptimization(Tiny.Model, Tiny.Model, Vowels, Length, Prompts);

        string[] answers = [.. Tiny.Prompts.Select(p => other.Generate(p.Prompt))];
        Assert.Equal(answers.Average(answer => answer.Count(c => "aeiou".Contains(c))), point.ProxyScore, 1e-9);
        Assert.Equal(answers.Average(answer => answer.Length), point.GoldScore, 1e-9);
        Assert.Equal(Rlhf.EvaluatePolicy(other, Tiny.Model, Prompts).Kl, point.Kl, 1e-5);
        Assert.Equal((1, 1, 0.0), (point.N, start.N, start.Kl));
    }

    [Fact]
    public void What_does_not_fit_is_an_error()
    {
        using var greedy = Tiny.Model.WithSampling(new SamplingOptions { Temperature = 0 });
        using var bytes = Tiny.Train(TextTokenizer.FromBytes());

        Assert.StartsWith(
            "A value of n is 9, but must be at least 1 and at most the 8 samples of a prompt.",
            Assert.Throws<ArgumentException>(
                "n", () => Rlhf.EvaluateBestOfN(Tiny.Model, Vowels, Length, Prompts, samples: 8, n: [1, 9])).Message);
        Assert.Throws<ArgumentOutOfRangeException>("samples", () => Rlhf.EvaluateBestOfN(Tiny.Model, Vowels, Length, Prompts, samples: 0));
        Assert.StartsWith("The policy samples with temperature 0, so all 64 answers to a prompt would be the same.",
            Assert.Throws<ArgumentException>(() => Rlhf.EvaluateBestOfN(greedy, Vowels, Length, Prompts)).Message);
        Assert.StartsWith("The policy samples with Temperature 0, so its answers", Assert.Throws<ArgumentException>(
            () => Rlhf.EvaluateOverOptimization(greedy, Tiny.Model, Vowels, Length, Prompts)).Message);
        Assert.Throws<ArgumentException>("reference", () => Rlhf.EvaluateOverOptimization(Tiny.Model, bytes, Vowels, Length, Prompts));
        Assert.StartsWith("The reward of an episode is NaN", Assert.Throws<InvalidOperationException>(() => Rlhf.EvaluateBestOfN(
            Tiny.Model, Vowels, Rlhf.Rewards.FromFunction((_, _) => float.NaN), Prompts, samples: 2)).Message);
        Assert.Equal("Could not find prompt column 'P' (Parameter 'inputSchema')", Assert.Throws<ArgumentOutOfRangeException>(
            () => Rlhf.EvaluateBestOfN(Tiny.Model, Vowels, Length, Prompts, promptColumnName: "P")).Message);
        Assert.StartsWith("The data has no rows, so there are no prompts to use", Assert.Throws<InvalidOperationException>(
            () => Rlhf.EvaluateBestOfN(Tiny.Model, Vowels, Length, _ml.View())).Message);
    }

    [Fact]
    public void Measuring_leaves_no_tensors()
    {
        var reward = Rlhf.Rewards.FromTransformer(Tiny.Reward);
        Measure();
        long before = DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;

        Measure();

        Assert.Equal(before, DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount);

        void Measure()
        {
            Rlhf.EvaluateBestOfN(Tiny.Model, reward, Length, Prompts, samples: 4);
            Rlhf.EvaluateOverOptimization(Tiny.Model, Tiny.Model, reward, Length, Prompts);
            Rlhf.EvaluateWinRate(Tiny.Model, Tiny.Model, Prompts, reward);
        }
    }
}
