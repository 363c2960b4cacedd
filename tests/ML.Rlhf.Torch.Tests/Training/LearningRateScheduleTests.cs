using ML.Rlhf.Torch.Training;

namespace ML.Rlhf.Torch.Tests.Training;

/// <summary>
/// The reference (transformers) gives its first warm-up step the rate 0 and would reach the minimum one step after the last. Ours has no
/// step without effect at the front and has its minimum at the last step, so the two meet where the warm-up ends, and between there and the
/// end ours is the reference's curve of one step less.
/// </summary>
public class LearningRateScheduleTests
{
    [Theory]
    [InlineData("cosine", LearningRateDecay.Cosine, 0)]
    [InlineData("cosine_min_lr", LearningRateDecay.Cosine, 0.1)]
    [InlineData("linear", LearningRateDecay.Linear, 0)]
    [InlineData("constant_with_warmup", LearningRateDecay.Constant, 0.1)]
    public void After_the_warm_up_the_curve_is_the_references_with_its_end_at_the_last_step(
        string name, LearningRateDecay decay, double minimum)
    {
        foreach (var c in Golden.Load("optim/schedules.json")["schedules"].Items.Where(c => c["name"].Text == name))
        {
            double[] expected = c["lr"].Numbers;
            int warmup = c["warmup_steps"].Integer, total = c["total_steps"].Integer;
            var options = Options(decay, minimum, warmup) with { LearningRate = c["base_lr"].Number };

            // One step more than the reference's total, so that "one after the last" of the reference is our last.
            for (int step = warmup; step < Math.Min(total, expected.Length); step++)
                Close.Assert(expected[step], LearningRateSchedule.At(options, step, total + 1), relative: 1e-7, absolute: 1e-11,
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
    public void After_the_warm_up_the_rate_only_falls_to_the_minimum_at_the_last_step_and_stays_there(
        LearningRateDecay decay, double minimum)
    {
        var options = Options(decay, minimum, warmup: 5);

        double[] rates = Rates(options, total: 40);

        for (int step = 6; step < 40; step++)
            Assert.True(rates[step] < rates[step - 1]);
        Close.Assert(minimum, rates[^1], absolute: 1e-12);
        Close.Assert(minimum, LearningRateSchedule.At(options, step: 100, totalSteps: 40), absolute: 1e-12);
        Close.Assert((1 + minimum) / 2, LearningRateSchedule.At(options, 5 + 17, 40), absolute: 1e-12); // half-way
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
