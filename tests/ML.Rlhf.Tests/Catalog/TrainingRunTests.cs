using Microsoft.ML;
using TorchSharp;

namespace ML.Rlhf.Tests.Catalog;

/// <summary>What surrounds every training run: seed, progress, log, cancellation, device, memory.</summary>
public sealed class TrainingRunTests
{
    private readonly MLContext _ml = new(seed: 1);

    [Theory, EveryStage]
    public void The_same_seed_gives_the_same_weights_bit_for_bit_and_another_seed_others(Stage stage)
    {
        var first = Weights(stage, seed: 7);

        Assert.Equal(first, Weights(stage, seed: 7));
        Assert.NotEqual(first, Weights(stage, seed: 8));
    }

    [Theory, EveryStage]
    public void The_seed_of_the_context_is_the_default(Stage stage)
    {
        Assert.Equal(Weights(stage, seed: 7), Tiny.Weights(stage.Trainer(new MLContext(seed: 7)).Fit(stage.Data(_ml))));
        Assert.Equal(Weights(stage, seed: 0), Tiny.Weights(stage.Trainer(new MLContext()).Fit(stage.Data(_ml))));
    }

    [Theory]
    [InlineData(Stage.FineTuning)]
    [InlineData(Stage.RewardModel)]
    [InlineData(Stage.Ppo)]
    [InlineData(Stage.Grpo)]
    [InlineData(Stage.Rloo)]
    [InlineData(Stage.Dpo)]
    [InlineData(Stage.Kto)]
    [InlineData(Stage.Orpo)]
    public void The_model_that_it_starts_from_stays_as_it_is(Stage stage)
    {
        var before = Tiny.Weights(Tiny.Model);

        var after = stage.Trainer(_ml).Fit(stage.Data(_ml));

        Assert.Equal(before, Tiny.Weights(Tiny.Model));
        Assert.NotEqual(before, Tiny.Weights(after)[..before.Length]);
        Assert.All(Tiny.Model.Module.parameters(), parameter => Assert.True(parameter.requires_grad));
        Assert.False(Tiny.Model.Module.training);
    }

    [Theory, EveryStage]
    public void Progress_arrives_after_every_step_in_order(Stage stage)
    {
        var progress = new ProgressRecords();

        stage.Trainer(_ml, new StageSettings { Steps = 4, Progress = progress }).Fit(stage.Data(_ml));

        Assert.Equal([1, 2, 3, 4], progress.Select(p => p.Step));
        Assert.All(progress, p =>
        {
            Assert.Equal((stage.ProgressName(), 4), (p.Stage, p.TotalSteps));
            Assert.True(double.IsFinite(p.Loss));
            Assert.InRange(p.LearningRate, 0, 1);
            Assert.InRange(p.GradientNorm, 1e-9, 1e6);
            Assert.InRange(p.TokensPerSecond, 1, 1e9);
        });
        Assert.Equal(TimeSpan.Zero, progress[^1].Remaining);
        Assert.Equal(progress[0].Elapsed * 3, progress[0].Remaining);
        Assert.Equal(progress.Select(p => p.Elapsed).Order(), progress.Select(p => p.Elapsed));
    }

    [Theory, EveryStage]
    public void The_log_of_the_context_tells_the_trainer_what_it_read_and_how_far_it_is(Stage stage)
    {
        var ml = new MLContext(seed: 1);
        var lines = Log(ml);

        stage.Trainer(ml, new StageSettings { Steps = 4 }).Fit(stage.Data(ml));

        string source = $"[Source={stage.LogSource()}; {stage.ProgressName()}, Kind=Info]";
        Assert.Contains(lines, line => line.StartsWith($"{source} 8 {stage.Rows()}, ", StringComparison.Ordinal));
        foreach (int step in new[] { 1, 2, 3, 4 })
        {
            string start = $"{source} {stage.ProgressName()} step {step}/4 loss ";
            Assert.Contains(lines, line => line.StartsWith(start, StringComparison.Ordinal));
        }
    }

    [Theory, EveryStage]
    public void A_cancellation_token_stops_it_before_the_next_step(Stage stage)
    {
        using var cancellation = new CancellationTokenSource();
        var progress = new ProgressRecords(p => { if (p.Step == 2) cancellation.Cancel(); });
        var trainer = stage.Trainer(_ml, new StageSettings { Steps = 100, Progress = progress, CancellationToken = cancellation.Token });

        Assert.ThrowsAny<OperationCanceledException>(() => { trainer.Fit(stage.Data(_ml)); });

        Assert.Equal(2, progress.Count);
    }

    [Theory, EveryStage]
    public void The_context_stops_it_before_the_next_step(Stage stage)
    {
        var ml = new MLContext(seed: 1);
        var progress = new ProgressRecords(p => { if (p.Step == 2) ml.Cancel(); });
        var trainer = stage.Trainer(ml, new StageSettings { Steps = 100, Progress = progress });

        var stopped = Assert.ThrowsAny<OperationCanceledException>(() => { trainer.Fit(stage.Data(ml)); });

        Assert.Equal("The operation was canceled by MLContext.CancelExecution().", stopped.Message);
        Assert.Equal(2, progress.Count);
    }

    [Theory, EveryStage]
    public void A_GPU_that_is_not_there_is_an_error(Stage stage)
    {
        Assert.SkipWhen(torch.cuda.is_available(), "This machine has a GPU.");
        var trainer = stage.Trainer(new MLContext(seed: 1) { GpuDeviceId = 0 });

        Assert.Equal(
            "MLContext.GpuDeviceId is 0, but no CUDA device or no CUDA backend was found. Add the package TorchSharp-cuda-linux or " +
            "TorchSharp-cuda-windows, choose another GpuDeviceId, or set MLContext.FallbackToCpu to true.",
            Assert.Throws<InvalidOperationException>(() => { trainer.Fit(stage.Data(_ml)); }).Message);
    }

    [Theory, EveryStage]
    public void A_GPU_that_is_not_there_is_a_warning_where_the_CPU_may_do(Stage stage)
    {
        Assert.SkipWhen(torch.cuda.is_available(), "This machine has a GPU.");
        var ml = new MLContext(seed: 1) { GpuDeviceId = 0, FallbackToCpu = true };
        var lines = Log(ml);

        var model = stage.Trainer(ml).Fit(stage.Data(ml));

        Assert.Equal(Weights(stage, seed: 1), Tiny.Weights(model));
        Assert.Contains($"[Source={stage.LogSource()}; {stage.ProgressName()}, Kind=Warning] MLContext.GpuDeviceId is 0, " +
            "but no CUDA device or no CUDA backend was found: running on the CPU.", lines);
    }

    [Theory, EveryStage]
    public void The_device_settings_may_come_after_the_trainer(Stage stage)
    {
        Assert.SkipWhen(torch.cuda.is_available(), "This machine has a GPU.");
        var ml = new MLContext(seed: 1);
        var trainer = stage.Trainer(ml);

        ml.GpuDeviceId = 0;

        Assert.Throws<InvalidOperationException>(() => { trainer.Fit(stage.Data(_ml)); });
    }

    [Theory, EveryStage]
    public void Two_hundred_steps_leave_as_many_tensors_as_twenty(Stage stage)
    {
        _ = Tiny.Model; // it is made once, and must not be among what is counted
        long few = LeftBy(20), many = LeftBy(200);

        Assert.Equal(few, many);

        long LeftBy(int steps)
        {
            long before = LiveTensors();
            using var model = (IDisposable)stage.Trainer(_ml, new StageSettings { Steps = steps }).Fit(stage.Data(_ml));
            return LiveTensors() - before;
        }
    }

    [Theory, EveryStage]
    public void A_run_that_was_stopped_and_a_model_that_was_disposed_leave_no_tensors(Stage stage)
    {
        Run(); // what is made once per process is not a leak
        long before = LiveTensors();

        Run();

        Assert.Equal(before, LiveTensors());

        void Run()
        {
            ((IDisposable)stage.Trainer(_ml).Fit(stage.Data(_ml))).Dispose();
            var stop = new ProgressRecords(p => { if (p.Step == 2) throw new OperationCanceledException(); });
            Assert.Throws<OperationCanceledException>(
                () => { stage.Trainer(_ml, new StageSettings { Steps = 4, Progress = stop }).Fit(stage.Data(_ml)); });
        }
    }

    private float[] Weights(Stage stage, int seed) =>
        Tiny.Weights(stage.Trainer(_ml, new StageSettings { Seed = seed }).Fit(stage.Data(_ml)));

    private static List<string> Log(MLContext ml)
    {
        var lines = new List<string>();
        ml.Log += (_, e) => lines.Add(e.Message);
        return lines;
    }

    /// <summary>Of this thread, which trains alone.</summary>
    private static long LiveTensors() => DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;
}
