using ML.Rlhf.Torch.Training;

namespace ML.Rlhf.Torch.Tests.Training;

/// <summary>
/// The reference (transformers) gives its first warm-up step the rate 0. Ours has no step without effect, so the two meet where the
/// warm-up ends and are the same from there on.
/// </summary>
public class LearningRateScheduleTests
{
    [Theory]
    [InlineData("cosine", LearningRateDecay.Cosine, 0)]
    [InlineData("cosine_min_lr", LearningRateDecay.Cosine, 0.1)]
    [InlineData("linear", LearningRateDecay.Linear, 0)]
    [InlineData("constant_with_warmup", LearningRateDecay.Constant, 0.1)]
    public void After_the_warm_up_the_curve_is_the_references(
        string name, LearningRateDecay decay, double minimum)
    {
        foreach (var c in Golden.Load("optim/schedules.json")["schedules"].Items.Where(c => c["name"].Text == name))
        {
            double[] expected = c["lr"].Numbers;
            int warmup = c["warmup_steps"].Integer, total = c["total_steps"].Integer;
            var options = Options(decay, minimum, warmup) with { LearningRate = c["base_lr"].Number };

            for (int step = warmup; step < Math.Min(total, expected.Length); step++)
                Close.Assert(expected[step], LearningRateSchedule.At(options, step, total), relative: 1e-7, absolute: 1e-11,
                    $"{name} at step {step}");
        }
    }

    /// <summary>The two deliberate differences, over all steps of all of the reference's curves.</summary>
    [Fact]
    public void The_warm_up_is_the_references_without_its_first_step_and_after_its_end_the_curve_stays_where_it_is()
    {
        foreach (var c in Golden.Load("optim/schedules.json")["schedules"].Items)
        {
            double[] expected = c["lr"].Numbers;
            string name = c["name"].Text;
            int warmup = c["warmup_steps"].Integer, total = c["total_steps"].Integer;
            var decay = name switch
            {
                "linear" => LearningRateDecay.Linear,
                "constant_with_warmup" => LearningRateDecay.Constant,
                _ => LearningRateDecay.Cosine,
            };
            double minimum = c.Has("min_lr_rate") ? c["min_lr_rate"].Number : 0;
            double At(int step, int ofWarmup) =>
                LearningRateSchedule.At(Options(decay, minimum, ofWarmup) with { LearningRate = c["base_lr"].Number }, step, total);

            if (warmup > 0)
                Assert.Equal(0, expected[0]); // a step that learns nothing
            for (int step = 1; step < warmup; step++)
                Close.Assert(expected[step], At(step - 1, warmup - 1), relative: 1e-7, what: $"{name} at step {step} of its warm-up");
            for (int step = total; step < expected.Length; step++)
            {
                Close.Assert(expected[total], At(step, warmup), relative: 1e-7, absolute: 1e-11, $"{name} at step {step}");
                if (decay == LearningRateDecay.Cosine && step > total)
                    Assert.True(expected[step] > expected[step - 1], "the reference's cosine rises again");
                else
                    Assert.Equal(expected[total], expected[step]);
            }
        }
    }

    [Theory]
    [InlineData(LearningRateDecay.Cosine)]
    [InlineData(LearningRateDecay.Linear)]
    [InlineData(LearningRateDecay.Constant)]
    public void The_rate_climbs_in_equal_parts_and_no_step_has_none(LearningRateDecay decay)
    {
        var options = Options(decay, minimum: 0.1, warmup: 4);

        double[] rates = Rates(options, total: 30);

        Close.Assert(0.2, rates[0], relative: 1e-12);
        Close.Assert(0.8, rates[3], relative: 1e-12);
        Assert.Equal(1, rates[4]);
        Assert.All(rates, rate => Assert.True(rate > 0));
    }

    [Theory]
    [InlineData(LearningRateDecay.Cosine, 0.1)]
    [InlineData(LearningRateDecay.Cosine, 0)]
    [InlineData(LearningRateDecay.Linear, 0.25)]
    public void After_the_warm_up_the_rate_only_falls_and_would_reach_the_minimum_one_step_after_the_last(
        LearningRateDecay decay, double minimum)
    {
        var options = Options(decay, minimum, warmup: 5);

        double[] rates = Rates(options, total: 40);

        for (int step = 6; step < 40; step++)
            Assert.True(rates[step] < rates[step - 1]);
        Assert.True(rates[^1] > minimum);
        Close.Assert(minimum, LearningRateSchedule.At(options, step: 40, totalSteps: 40), absolute: 1e-12);
        Close.Assert(minimum, LearningRateSchedule.At(options, step: 100, totalSteps: 40), absolute: 1e-12);
        Close.Assert((1 + minimum) / 2, LearningRateSchedule.At(options, 5 + 18, 41), absolute: 1e-12); // half-way
    }

    [Fact]
    public void A_run_shorter_than_its_warm_up_never_falls()
    {
        double[] rates = Rates(Options(LearningRateDecay.Cosine, 0.1, warmup: 100), total: 10);

        Assert.Equal(rates.Order(), rates);
        Assert.True(rates[^1] < 0.11);
    }

    [Fact]
    public void A_run_of_one_step_has_the_whole_rate() =>
        Assert.Equal(1, LearningRateSchedule.At(Options(LearningRateDecay.Linear, 0, warmup: 0), step: 0, totalSteps: 1));

    /// <summary>Vaswani et al. 2017, equation 3: C^-0.5 · min(n^-0.5, n · warm-up^-1.5), with n from 1.</summary>
    [Fact]
    public void The_inverse_square_root_is_the_papers()
    {
        const int Width = 512, Warmup = 4000;
        var options = Options(LearningRateDecay.InverseSquareRoot, minimum: 0.1, Warmup - 1) with
        {
            LearningRate = 1 / Math.Sqrt(Width * (double)Warmup),
        };

        foreach (int n in (int[])[1, 2, 1000, Warmup - 1, Warmup, Warmup + 1, 4 * Warmup, 100_000])
        {
            double paper = Math.Pow(Width, -0.5) * Math.Min(Math.Pow(n, -0.5), n * Math.Pow(Warmup, -1.5));
            Close.Assert(paper, LearningRateSchedule.At(options, n - 1, totalSteps: 100_000), relative: 1e-12, what: $"step {n}");
        }
    }

    private static PlainOptions Options(LearningRateDecay decay, double minimum, int warmup) =>
        new() { LearningRate = 1, LearningRateDecay = decay, MinimumLearningRateRatio = minimum, WarmupSteps = warmup };

    private static double[] Rates(OptimizationOptions options, int total) =>
        [.. Enumerable.Range(0, total).Select(step => LearningRateSchedule.At(options, step, total))];
}
