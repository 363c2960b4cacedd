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

    private static PlainOptions Options(LearningRateDecay decay, double minimum, int warmup) =>
        new() { LearningRate = 1, LearningRateDecay = decay, MinimumLearningRateRatio = minimum, WarmupSteps = warmup };

    private static double[] Rates(OptimizationOptions options, int total) =>
        [.. Enumerable.Range(0, total).Select(step => LearningRateSchedule.At(options, step, total))];
}
