using ML.Rlhf.Torch.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Training;

/// <summary>Runs that are stopped and go on from their checkpoints. That processes survive being killed is tested with real ones.</summary>
public sealed class ResumeTests : IDisposable
{
    private readonly string _root = Directory.CreateTempSubdirectory("ML.Rlhf.").FullName;

    public static TheoryData<string> Loops => TinyLoop.Names;

    private string Folder => Path.Combine(_root, "run");

    private CheckpointOptions Checkpoints => new() { Folder = Folder, EverySteps = 1, Every = Timeout.InfiniteTimeSpan };

    public void Dispose() => Directory.Delete(_root, recursive: true);

    [Theory]
    [MemberData(nameof(Loops))]
    public void A_run_that_fails_in_each_of_its_steps_and_goes_on_has_the_weights_of_one_that_did_not(string loop)
    {
        const int Steps = 6;
        var expected = Run(loop, new() { Steps = Steps });

        for (int fatal = 1; fatal <= Steps; fatal++)
        {
            var settings = new TinyLoop.Settings
            {
                Steps = Steps,
                Checkpoints = Checkpoints with { EverySteps = 1 + fatal % 2 },
                OnReport = progress => Require(progress.Step != fatal),
            };
            Assert.Throws<StepFailedException>(() => Run(loop, settings));
        }
        var resumed = Run(loop, new() { Steps = Steps, Checkpoints = Checkpoints });

        AssertSameBits(expected.After, resumed.After);
        Assert.Equal(Steps, resumed.Reports[^1].Step);
        Assert.True(resumed.Reports.Count <= 2);
        string[] history = File.ReadAllLines(Path.Combine(Folder, "progress.jsonl"));
        Assert.Equal(Enumerable.Range(1, Steps), history.Select(StepOf));
    }

    [Theory]
    [MemberData(nameof(Loops))]
    public void Checkpoints_change_nothing_and_a_finished_run_gives_its_weights_again(string loop)
    {
        var expected = Run(loop, new() { Steps = 3 });

        var first = Run(loop, new() { Steps = 3, Checkpoints = Checkpoints });
        var again = Run(loop, new() { Steps = 3, Checkpoints = Checkpoints });

        AssertSameBits(expected.After, first.After);
        AssertSameBits(expected.After, again.After);
        Assert.Empty(again.Reports);
    }

    [Fact]
    public void A_damaged_newest_checkpoint_is_reported_and_set_aside_and_the_one_before_is_used()
    {
        var expected = Run("PPO", new() { Steps = 4 });
        Assert.Throws<StepFailedException>(() => Run("PPO", Failing(4)));
        Assert.Equal(["checkpoint-00000002", "checkpoint-00000003"], CheckpointNames());
        Damage(Path.Combine(Folder, "checkpoint-00000003", "state.safetensors"));

        var resumed = Run("PPO", new() { Steps = 4, Checkpoints = Checkpoints });

        AssertSameBits(expected.After, resumed.After);
        Assert.Equal([3, 4], resumed.Reports.Select(report => report.Step));
        Assert.True(Directory.Exists(Path.Combine(Folder, "checkpoint-00000003.damaged")));
    }

    [Theory]
    [InlineData("manifest.json")]
    [InlineData("state.json")]
    [InlineData("run.json")]
    [InlineData("state.safetensors")]
    public void Where_no_checkpoint_is_whole_the_run_does_not_begin_anew_by_itself(string file)
    {
        Assert.Throws<StepFailedException>(() => Run("SFT", Failing(3)));
        foreach (string checkpoint in CheckpointNames())
            Damage(Path.Combine(Folder, checkpoint, file));

        var error = Assert.Throws<InvalidOperationException>(() => Run("SFT", new() { Checkpoints = Checkpoints }));

        Assert.Contains("No checkpoint of", error.Message);
        Assert.Contains(file == "manifest.json" ? "is damaged, in" : $"is damaged, in {file}", error.Message);
    }

    [Fact]
    public void Other_options_seeds_and_starting_models_are_refused_and_listed_unless_they_are_allowed()
    {
        Assert.Throws<StepFailedException>(() => Run("GPT", Failing(3)));

        var error = Assert.Throws<InvalidOperationException>(
            () => Run("GPT", new() { Steps = 6, Seed = 1, MicroBatchSize = 4, Checkpoints = Checkpoints }));
        Assert.Contains("MicroBatchSize was null and is 4; Steps was 4 and is 6", error.Message.Replace("Seed was 0 and is 1; ", ""));
        Assert.Contains("Seed was 0 and is 1", error.Message);

        Run("GPT", new()
        {
            Steps = 6, Seed = 1, MicroBatchSize = 4,
            Checkpoints = Checkpoints with { AllowedChanges = ["Steps", "Seed", "MicroBatchSize"] },
        });

        error = Assert.Throws<InvalidOperationException>(() => Run("SFT", new() { Steps = 6, Checkpoints = Checkpoints }));
        Assert.Contains("Data was ", error.Message);
        Assert.Contains("Epochs was missing", error.Message);
    }

    [Fact]
    public void Never_refuses_a_folder_that_has_checkpoints_and_keeps_them()
    {
        Run("SFT", new() { Checkpoints = Checkpoints with { Resume = Resume.Never } });
        string[] names = CheckpointNames();

        var error = Assert.Throws<InvalidOperationException>(
            () => Run("SFT", new() { Checkpoints = Checkpoints with { Resume = Resume.Never } }));

        Assert.Contains("has checkpoints of a run", error.Message);
        Assert.Equal(names, CheckpointNames());
    }

    [Fact]
    public void A_run_branches_off_from_a_checkpoint_of_another_and_the_branch_itself_goes_on()
    {
        var expected = Run("SFT", new() { Steps = 6 });
        Assert.Throws<StepFailedException>(() => Run("SFT", Failing(4, steps: 6)));
        string branch = Path.Combine(_root, "branch");
        var options = Checkpoints with { Folder = branch, Resume = Resume.From(Path.Combine(Folder, "checkpoint-00000002")) };

        Assert.Throws<StepFailedException>(
            () => Run("SFT", new() { Steps = 6, Checkpoints = options, OnReport = progress => Require(progress.Step != 5) }));
        var resumed = Run("SFT", new() { Steps = 6, Checkpoints = options });

        AssertSameBits(expected.After, resumed.After);
        Assert.Equal([5, 6], resumed.Reports.Select(report => report.Step));
        Assert.Equal(6, File.ReadAllLines(Path.Combine(branch, "progress.jsonl")).Length);
        Assert.Equal(["checkpoint-00000002", "checkpoint-00000003"], CheckpointNames());
    }

    [Fact]
    public void The_newest_checkpoints_and_the_best_one_are_kept_and_the_run_ends_with_the_best_weights()
    {
        var losses = new Dictionary<int, double>();
        var options = Checkpoints with { EverySteps = 1, Keep = 1, Best = CheckpointMetric.Lowest("loss") };
        // A learning rate far too high: the loss falls, and rises again.
        var run = Run("SFT", new() { Steps = 8, Checkpoints = options, OnReport = p => losses[p.Step] = p.Loss });
        int best = losses.MinBy(loss => loss.Value).Key;

        var untilBest = Run("SFT", new()
        {
            Steps = 8,
            WhenCanceled = CancellationAction.ReturnModel,
            CancelAfter = best,
        });

        Assert.NotEqual(8, best);
        Assert.Equal([$"checkpoint-{best:D8}", "checkpoint-00000008"], CheckpointNames());
        AssertSameBits(untilBest.After, run.After);
    }

    [Fact]
    public void A_folder_may_be_named_with_a_slash_at_its_end()
    {
        var options = Checkpoints with { Folder = Folder + Path.DirectorySeparatorChar };
        var first = Run("SFT", new() { Steps = 4, Checkpoints = options });

        var again = Run("SFT", new() { Steps = 4, Checkpoints = options });

        AssertSameBits(first.After, again.After);
        Assert.Equal(["checkpoint-00000003", "checkpoint-00000004"], CheckpointNames());
        Assert.Equal(4, File.ReadAllLines(Path.Combine(Folder, "progress.jsonl")).Length);
    }

    [Fact]
    public void A_checkpoint_takes_the_place_of_one_of_the_same_step()
    {
        Run("SFT", new() { Steps = 2, Checkpoints = Checkpoints });
        string folder = Path.Combine(Folder, "checkpoint-00000002");
        var run = RunCheckpoint.Open(folder).Run;

        RunCheckpoint.Write(folder, step: 2, run, state => { });

        Assert.Equal(2, RunCheckpoint.Open(folder).Step);
        Assert.Equal(2, new FileInfo(Path.Combine(folder, "state.json")).Length); // {}: the new one
        Assert.Equal(["checkpoint-00000001", "checkpoint-00000002"], CheckpointNames());
    }

    [Fact]
    public void Without_steps_the_time_decides_and_the_last_step_is_always_kept()
    {
        Run("SFT", new() { Steps = 4, Checkpoints = new() { Folder = Folder } });
        Assert.Equal(["checkpoint-00000004"], CheckpointNames());

        Directory.Delete(Folder, recursive: true);
        Run("SFT", new() { Steps = 4, Checkpoints = new() { Folder = Folder, Every = TimeSpan.Zero, Keep = 10 } });
        Assert.Equal(4, CheckpointNames().Length);
    }

    [Fact]
    public void Two_runs_cannot_have_the_same_folder()
    {
        string? message = null;
        Run("SFT", new()
        {
            Checkpoints = Checkpoints,
            OnReport = _ => message = Assert.Throws<IOException>(() => Run("SFT", new() { Checkpoints = Checkpoints })).Message,
        });

        Assert.Contains("is in use by another run", message);
    }

    [Fact]
    public void Saving_and_restoring_leave_no_tensor_whether_a_run_ends_fails_or_goes_on()
    {
        Run("PPO", new());
        long start = LiveTensors.Count;
        Run("PPO", new()); // its networks and snapshots stay
        long left = LiveTensors.Count - start;

        Assert.Throws<StepFailedException>(() => Run("PPO", Failing(3)));
        long ofFailed = LiveTensors.Count - start - left;
        Run("PPO", new() { Checkpoints = Checkpoints });

        Assert.Equal(start + 2 * left + ofFailed, LiveTensors.Count);
        Assert.True(ofFailed <= left);
    }

    [Theory]
    [InlineData("SFT")]
    [InlineData("PPO")]
    [InlineData("GRPO")]
    public void Canceled_and_told_to_return_its_model_a_run_returns_the_best_one(string loop)
    {
        var first = Run(loop, new() { Steps = 4, WhenCanceled = CancellationAction.ReturnModel, CancelAfter = 1 });
        int looksAfter3 = 0, step = 0;

        var returned = Run(loop, new()
        {
            Steps = 4, WhenCanceled = CancellationAction.ReturnModel,
            Checkpoints = Checkpoints with { Best = CheckpointMetric.Highest("lr") },
            OnReport = progress => step = progress.Step,
            OnCheck = () =>
            {
                if (step >= 3 && ++looksAfter3 > 1) // not between two steps: in the middle of one, where there is a place to look
                    throw new OperationCanceledException();
            },
        });

        AssertSameBits(first.After, returned.After);
    }

    [Fact]
    public void A_branch_keeps_the_history_where_its_checkpoint_is_named_with_a_separator_at_the_end()
    {
        Assert.Throws<StepFailedException>(() => Run("SFT", Failing(3)));
        string branch = Path.Combine(_root, "branch");
        string from = Path.Combine(Folder, "checkpoint-00000002") + Path.DirectorySeparatorChar;

        Run("SFT", new() { Checkpoints = Checkpoints with { Folder = branch, Resume = Resume.From(from) } });

        Assert.Equal([1, 2, 3, 4], File.ReadAllLines(Path.Combine(branch, "progress.jsonl")).Select(StepOf));
    }

    [Fact]
    public void A_resume_from_no_checkpoint_says_so()
    {
        Run("SFT", new() { Checkpoints = Checkpoints });

        foreach (string path in new[] { Folder, Path.Combine(_root, "nowhere") })
        {
            var error = Assert.Throws<FileNotFoundException>(() => Run("SFT", new()
            {
                Checkpoints = Checkpoints with { Folder = Path.Combine(_root, "branch"), Resume = Resume.From(path) },
            }));
            Assert.Contains($"'{path}' is no checkpoint", error.Message);
        }
    }

    [Fact]
    public void Another_metric_begins_without_the_best_value_of_the_one_before()
    {
        Assert.Throws<StepFailedException>(() => Run("SFT", new()
        {
            Checkpoints = Checkpoints with { Best = CheckpointMetric.Highest("loss") },
            OnReport = progress => Require(progress.Step != 3),
        }));

        Run("SFT", new() { Checkpoints = Checkpoints with { Keep = 1, Best = CheckpointMetric.Highest("lr") } });

        Assert.Equal(["checkpoint-00000003", "checkpoint-00000004"], CheckpointNames()); // of the steps that were left
    }

    [Fact]
    public void A_best_checkpoint_that_is_damaged_when_the_run_ends_is_reported_and_the_last_weights_stay()
    {
        var last = Run("SFT", new());
        var options = Checkpoints with { Keep = 1, Best = CheckpointMetric.Highest("lr") };
        var run = Run("SFT", new()
        {
            Checkpoints = options,
            OnReport = progress =>
            {
                if (progress.Step == 3)
                    Damage(Path.Combine(Folder, "checkpoint-00000001", "state.safetensors"));
            },
        });

        AssertSameBits(last.After, run.After);
    }

    [Fact]
    public void A_step_that_breaks_the_weights_is_not_the_best_one()
    {
        nn.Module? model = null;
        var best = Run("GPT", new() { Steps = 4, WhenCanceled = CancellationAction.ReturnModel, CancelAfter = 2 });

        var run = Run("GPT", new()
        {
            Steps = 4, Checkpoints = Checkpoints with { Best = CheckpointMetric.Lowest("lr") }, // the decay makes each step the best
            OnModel = gpt => model = gpt,
            OnReport = progress =>
            {
                if (progress.Step != 3)
                    return;
                using var noGrad = no_grad();
                model!.parameters().First().fill_(double.PositiveInfinity);
            },
        });

        AssertSameBits(best.After, run.After);
    }

    [Fact]
    public void Folders_of_others_are_left_alone()
    {
        string others = Directory.CreateDirectory(Path.Combine(Folder, "my.tmp")).FullName;
        string left = Directory.CreateDirectory(Path.Combine(Folder, "checkpoint-00000009.tmp")).FullName;

        Run("SFT", new() { Checkpoints = Checkpoints });

        Assert.True(Directory.Exists(others));
        Assert.False(Directory.Exists(left));
    }

    [Fact]
    public void A_manifest_without_files_is_damaged()
    {
        Run("SFT", new() { Checkpoints = Checkpoints with { Keep = 1 } });
        File.WriteAllText(
            Path.Combine(Folder, "checkpoint-00000004", "manifest.json"), """{"Format":1,"Step":4,"Files":[null,null,null]}""");

        Assert.Throws<InvalidOperationException>(() => Run("SFT", new() { Checkpoints = Checkpoints }));
    }

    private static (Dictionary<string, Tensor> After, List<TrainingProgress> Reports) Run(string loop, TinyLoop.Settings settings)
    {
        var (_, after, reports) = TinyLoop.Run(loop, settings);
        return (after, reports);
    }

    private TinyLoop.Settings Failing(int step, int steps = 4) =>
        new() { Steps = steps, Checkpoints = Checkpoints, OnReport = progress => Require(progress.Step != step) };

    private string[] CheckpointNames() => [.. Directory.GetDirectories(Folder, "checkpoint-*").Select(Path.GetFileName).Order()!];

    private static int StepOf(string line) => System.Text.Json.JsonDocument.Parse(line).RootElement.GetProperty("step").GetInt32();

    private static void Damage(string file)
    {
        byte[] bytes = File.ReadAllBytes(file);
        bytes[bytes.Length / 2] ^= 1;
        File.WriteAllBytes(file, bytes);
    }

    private static void AssertSameBits(Dictionary<string, Tensor> expected, Dictionary<string, Tensor> actual)
    {
        Assert.Equal(expected.Keys, actual.Keys);
        foreach (var (name, tensor) in expected)
            Assert.True(tensor.bytes.SequenceEqual(actual[name].bytes), $"'{name}' differs by {Close.Distance(tensor, actual[name])}");
    }

    private static void Require(bool goesOn)
    {
        if (!goesOn)
            throw new StepFailedException();
    }

    private sealed class StepFailedException : Exception;
}
