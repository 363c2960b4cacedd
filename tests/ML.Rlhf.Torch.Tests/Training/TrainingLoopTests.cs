using ML.Rlhf.Torch.Training;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Training;

/// <summary>What holds for every training loop.</summary>
public class TrainingLoopTests
{
    public static TheoryData<string> Loops => TinyLoop.Names;

    [Theory]
    [MemberData(nameof(Loops))]
    public void The_same_seed_gives_the_same_bits_and_another_seed_others(string loop)
    {
        var first = TinyLoop.Run(loop, new() { Seed = 5 });
        rand(100); // somebody else uses libtorch's generator in between
        var again = TinyLoop.Run(loop, new() { Seed = 5 });
        var other = TinyLoop.Run(loop, new() { Seed = 6 });

        Assert.All(first.After, p => Close.Assert(p.Value, again.After[p.Key], what: p.Key));
        Assert.Equal(first.Reports.Select(r => r.Loss), again.Reports.Select(r => r.Loss));
        Assert.Contains(first.After, p => Close.Distance(p.Value, other.After[p.Key]) > 1e-5);
    }

    [Theory]
    [MemberData(nameof(Loops))]
    public void Micro_batches_give_the_gradients_of_the_whole_batch(string loop)
    {
        var settings = new TinyLoop.Settings { Steps = 1, Dropout = 0, PlainGradientDescent = true };
        var whole = TinyLoop.Run(loop, settings);

        foreach (int size in (int[])[1, 3, 8, 100])
        {
            var parts = TinyLoop.Run(loop, settings with { MicroBatchSize = size });

            // The loss, the gradient's norm, and then every single weight's gradient (times −1,000) in the weights.
            Close.Assert(whole.Reports[0].Loss, parts.Reports[0].Loss, relative: 1e-6, absolute: 1e-6, $"loss with {size}");
            Close.Assert(whole.Reports[0].GradientNorm, parts.Reports[0].GradientNorm, relative: 1e-6, what: $"gradient norm with {size}");
            double largest = whole.After.Max(p => Close.Distance(p.Value, whole.Before[p.Key]));
            Assert.All(whole.After, p => Close.Assert(p.Value, parts.After[p.Key], absolute: 3e-6 * largest, what: $"{p.Key} with {size}"));
        }
    }

    /// <summary>The first 20 steps may fill caches of libtorch and of .NET; after that a step leaves nothing behind.</summary>
    [Theory]
    [MemberData(nameof(Loops))]
    public void After_200_steps_as_many_tensors_live_as_after_20(string loop)
    {
        var counts = new List<long>();

        TinyLoop.Run(loop, new() { Steps = 200, OnReport = _ => counts.Add(LiveTensors.Count) });

        Assert.Equal(200, counts.Count);
        Assert.Equal(counts[19], counts[199]);
    }

    [Theory]
    [MemberData(nameof(Loops))]
    public void Reports_count_the_steps_follow_the_schedule_and_measure(string loop)
    {
        var reports = TinyLoop.Run(loop, new() { Steps = 6 }).Reports;

        Assert.Equal(Enumerable.Range(1, 6), reports.Select(r => r.Step));
        Assert.All(reports, r =>
        {
            Assert.Equal(6, r.TotalSteps);
            Assert.True(double.IsFinite(r.Loss) && r.GradientNorm > 0 && r.TokensPerSecond > 0);
        });
        Assert.Equal(1e-2, reports[0].LearningRate, tolerance: 1e-12);
        bool ownAnswers = loop.StartsWith("PPO", StringComparison.Ordinal) || loop is "GRPO" or "RLOO"; // their rate falls in a straight line to 0
        double last = ownAnswers ? 1.0 / 6 : 0.1 + 0.9 * 0.5 * (1 + Math.Cos(Math.PI * 5 / 6));
        Assert.Equal(1e-2 * last, reports[^1].LearningRate, tolerance: 1e-12);
        if (!ownAnswers)
            Assert.Equal([false, true, false, true, false, true], reports.Select(r => r.ValidationLoss is not null));
    }

    [Theory]
    [InlineData("GPT", "tokens_per_second")]
    [InlineData("LSTM", "eval_loss")]
    [InlineData("SFT", "eval_loss")]
    [InlineData("MLM", "eval_loss")]
    [InlineData("Reward model", "grad_norm")]
    [InlineData("DPO", "rewards/margins")]
    [InlineData("KTO", "kl")]
    [InlineData("ORPO", "log_odds_chosen")]
    [InlineData("GRPO", "frac_reward_zero_std")]
    [InlineData("RLOO", "objective/kl")]
    public void Metrics_have_the_fields_names(string loop, string name)
    {
        var metrics = TinyLoop.Run(loop, new() { Steps = 2 }).Reports[^1].ToMetrics();

        Assert.Contains(name, metrics.Keys);
        Assert.Contains("loss", metrics.Keys);
        Assert.All(metrics, metric => Assert.True(double.IsFinite(metric.Value), metric.Key));
    }

    [Theory]
    [MemberData(nameof(Loops))]
    public void Cancelling_between_two_steps_ends_the_run(string loop)
    {
        int reports = 0;

        Assert.Throws<OperationCanceledException>(() => TinyLoop.Run(loop, new()
        {
            Steps = 6,
            OnReport = _ =>
            {
                if (++reports == 2)
                    throw new OperationCanceledException();
            },
        }));

        Assert.Equal(2, reports);
    }
}
