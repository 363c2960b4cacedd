using ML.Rlhf.Torch.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Training;

/// <summary>Steps whose gradients are not finite. Those of PPO, GRPO and RLOO are an alarm: see <see cref="AlarmTests"/>.</summary>
public sealed class SkippedStepTests : IDisposable
{
    private const int Steps = 6;

    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.").FullName;

    public static TheoryData<string> Loops =>
        ["GPT", "LSTM", "SFT", "Reward model", "DPO", "KTO", "ORPO", "MLM", "Encoder–decoder", "SFT, LoRA", "Reward model, LoRA",
            "DPO, LoRA"];

    private CheckpointOptions Checkpoints => new() { Folder = _folder, EverySteps = 1, Every = Timeout.InfiniteTimeSpan, Keep = 10 };

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [MemberData(nameof(Loops))]
    public void A_step_with_a_gradient_that_is_not_finite_changes_no_weight_and_is_counted_also_over_a_resume(string loop)
    {
        var poison = new Poison(2, 4);
        Dictionary<string, byte[]> afterFirst = [], afterSecond = [];
        var (_, expected, reports) = TinyLoop.Run(loop, poison.In(new()
        {
            Steps = Steps,
            OnReport = p =>
            {
                if (p.Step == 1)
                    afterFirst = poison.Bytes();
                if (p.Step == 2)
                    afterSecond = poison.Bytes();
            },
        }));

        Assert.Equal([0, 1, 1, 2, 2, 2], reports.Select(report => report.SkippedSteps));
        Assert.Equal([false, true, false, true, false, false], reports.Select(report => !double.IsFinite(report.GradientNorm)));
        Assert.Equal(afterFirst, afterSecond);

        var failing = new Poison(2, 4);
        Assert.Throws<TimeoutException>(() => TinyLoop.Run(loop, failing.In(new()
        {
            Steps = Steps, Checkpoints = Checkpoints, OnReport = p => { if (p.Step == 5) throw new TimeoutException(); },
        })));
        var (_, resumed, rest) = TinyLoop.Run(loop, new() { Steps = Steps, Checkpoints = Checkpoints });

        Assert.Equal([2, 2], rest.Select(report => report.SkippedSteps));
        foreach (var (name, tensor) in expected)
            Assert.True(tensor.bytes.SequenceEqual(resumed[name].bytes), name);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(2)]
    public void More_than_the_limit_in_a_row_end_the_run_and_the_last_checkpoint_is_of_finite_weights(int most)
    {
        var poison = new Poison(2, 3, 4, 5);
        var reports = new List<TrainingProgress>();

        var error = Assert.Throws<InvalidOperationException>(() => TinyLoop.Run(
            "SFT", poison.In(new() { Steps = Steps, MaxSkippedSteps = most, Checkpoints = Checkpoints, OnReport = reports.Add })));

        Assert.Contains($"{most + 1} steps in a row had a gradient that is not finite (MaxSkippedSteps is {most}).", error.Message);
        Assert.Equal(most + 2, reports.Count);
        AssertFinite();
    }

    [Fact]
    public void Weights_that_a_huge_learning_rate_makes_infinite_never_take_the_place_of_a_good_checkpoint()
    {
        Assert.ThrowsAny<InvalidOperationException>(() => TinyLoop.Run("SFT", new()
        {
            Steps = 20, LearningRate = 1e36, Checkpoints = Checkpoints with { Keep = 1 },
        }));
        AssertFinite(atLeast: 0);

        Directory.Delete(_folder, recursive: true);
        nn.Module? model = null;
        Assert.Throws<InvalidOperationException>(() => TinyLoop.Run("SFT", new()
        {
            Steps = 20,
            MaxSkippedSteps = 3,
            Checkpoints = Checkpoints with { Keep = 1 },
            OnModel = module => model = module,
            OnReport = p => { if (p.Step == 3) Poison.Fill(model!.parameters().First(), float.PositiveInfinity); },
        }));
        AssertFinite();
        Assert.Equal("checkpoint-00000002", Path.GetFileName(Directory.GetDirectories(_folder, "checkpoint-*").Single()));
    }

    private void AssertFinite(int atLeast = 1)
    {
        string[] checkpoints = Directory.Exists(_folder) ? Directory.GetDirectories(_folder, "checkpoint-*") : [];
        Assert.True(checkpoints.Length >= atLeast);
        foreach (string checkpoint in checkpoints)
        {
            RunCheckpoint.Open(checkpoint);
            using var file = new ML.Rlhf.Torch.Checkpoints.SafetensorsFile(Path.Combine(checkpoint, "state.safetensors"));
            foreach (var info in file.Tensors)
            {
                using var tensor = zeros(info.Shape);
                file.Read(info, tensor);
                Assert.True(tensor.isfinite().all().ToBoolean(), $"{checkpoint}: {info.Name}");
            }
        }
    }

    /// <summary>Makes the gradient of some steps NaN: from the look before the step to its report, one weight is.</summary>
    private sealed class Poison(params int[] steps)
    {
        private nn.Module _model = null!;
        private Tensor? _good;
        private int _done;

        public TinyLoop.Settings In(TinyLoop.Settings settings)
        {
            return settings with
            {
                OnModel = model => _model = model,
                OnCheck = () =>
                {
                    if (_good is null && steps.Contains(_done + 1))
                    {
                        _good = Weight.clone();
                        Fill(Weight, float.NaN);
                    }
                },
                OnReport = progress =>
                {
                    _done = progress.Step;
                    if (_good is not null)
                    {
                        using var noGrad = no_grad();
                        Weight.copy_(_good);
                        _good = null;
                    }
                    settings.OnReport?.Invoke(progress);
                },
            };
        }

        public Dictionary<string, byte[]> Bytes() =>
            _model.named_parameters().ToDictionary(p => p.name, p => p.parameter.detach().clone().bytes.ToArray());

        public static void Fill(Tensor weight, float value)
        {
            using var noGrad = no_grad();
            weight.fill_(value);
        }

        private Tensor Weight => _model.parameters().First();
    }
}
