using System.Collections;
using System.Reflection;
using Microsoft.ML;
using Microsoft.ML.Data;
using ML.Rlhf.Torch.Training;

namespace ML.Rlhf.Tests.Catalog;

/// <summary>Runs that are kept on disk, as <c>Fit</c> shows them: resumed, refused, canceled, in folders that are not as usual.</summary>
public sealed class CheckpointTests : IDisposable
{
    private const int Steps = 4;

    private readonly MLContext _ml = new(seed: 1);
    private readonly string _root = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;

    private string Folder => Path.Combine(_root, "run");

    /// <summary>No checkpoint but those that a run leaves when it ends.</summary>
    private CheckpointOptions Checkpoints => new() { Folder = Folder, Every = Timeout.InfiniteTimeSpan };

    public void Dispose() => Directory.Delete(_root, recursive: true);

    [Theory, EveryStage]
    public void A_run_that_failed_goes_on_with_the_same_weights_and_data_that_changed_are_refused_unless_allowed(Stage stage)
    {
        var expected = Tiny.Weights(Fit(stage, new()));
        var checkpoints = Checkpoints with { EverySteps = 1, Keep = 9 };
        Assert.Throws<TimeoutException>(() => Fit(stage, new() { Checkpoints = checkpoints, Progress = FailingAt(3) }));

        var other = _ml.Data.ShuffleRows(stage.Data(_ml), seed: 3);
        var refused = Assert.Throws<InvalidOperationException>(
            () => { stage.Trainer(_ml, new() { Steps = Steps, Checkpoints = checkpoints }).Fit(other); });
        Assert.Contains($"; {Content(stage)} was ", "; " + refused.Message.Split("something else: ")[1]);

        var rest = new ProgressRecords();
        var resumed = Fit(stage, new() { Checkpoints = checkpoints, Progress = rest });
        Assert.Equal([3, 4], rest.Select(p => p.Step));
        Assert.Equal(expected, Tiny.Weights(resumed));

        Directory.Delete(Path.Combine(Folder, "checkpoint-00000004"), recursive: true);
        var allowed = checkpoints with { AllowedChanges = [Content(stage)] };
        stage.Trainer(_ml, new() { Steps = Steps, Checkpoints = allowed, Progress = rest }).Fit(other);
        Assert.Equal([3, 4, 4], rest.Select(p => p.Step));
    }

    [Fact]
    public void Another_reward_model_is_refused_by_its_name()
    {
        var rewards = _ml.Rlhf().Rewards;
        using var another = Tiny.TrainReward(Tiny.Model, new RewardModelOptions { Epochs = 1, LearningRate = 3e-3 });
        Fit(rewards.FromTransformer(Tiny.Reward));

        var refused = Assert.Throws<InvalidOperationException>(() => Fit(rewards.FromTransformer(another)));

        Assert.Contains("Reward was ", refused.Message);

        void Fit(Reward reward) => _ml.Rlhf().Trainers.Ppo(Tiny.Model, reward, new PpoOptions
        {
            Episodes = 8, EpisodesPerUpdate = 4, MaxResponseTokens = 4, Checkpoints = Checkpoints,
        }).Fit(Stage.Ppo.Data(_ml));
    }

    [Theory, EveryStage]
    public void Canceled_it_throws_before_the_next_step_and_goes_on_after_the_last_one(Stage stage)
    {
        var expected = Tiny.Weights(Fit(stage, new()));
        foreach (bool byContext in new[] { false, true })
        {
            var checkpoints = Checkpoints with { Folder = Path.Combine(_root, $"{byContext}") };
            Assert.ThrowsAny<OperationCanceledException>(() => FitCanceled(stage, byContext, new() { Checkpoints = checkpoints }));
            Assert.Equal("checkpoint-00000002", CheckpointNames(checkpoints.Folder).Single());

            var rest = new ProgressRecords();
            Assert.Equal(expected, Tiny.Weights(Fit(stage, new() { Checkpoints = checkpoints, Progress = rest })));
            Assert.Equal([3, 4], rest.Select(p => p.Step));
        }
    }

    [Theory, EveryStage]
    public void Canceled_it_returns_a_model_that_works_and_leaves_a_checkpoint(Stage stage)
    {
        var expected = Tiny.Weights(Fit(stage, new()));
        float[]? first = null;
        foreach (var (byContext, isKept) in new[] { (false, false), (true, false), (false, true), (true, true) })
        {
            var checkpoints = Checkpoints with { Folder = Path.Combine(_root, $"{byContext}") };
            var settings = new StageSettings { WhenCanceled = CancellationAction.ReturnModel, Checkpoints = isKept ? checkpoints : null };
            var model = FitCanceled(stage, byContext, settings);
            first ??= Tiny.Weights(model);
            Assert.Equal(first, Tiny.Weights(model));

            var scored = model.Transform(stage.Data(_ml));
            Assert.Equal(8, scored.Preview().RowView.Count(row => row.Values.Any(v => v.Key == stage.Output() && v.Value is not null)));
            using var file = new MemoryStream();
            _ml.Model.Save(model, scored.Schema, file);
            Assert.Equal(first, Tiny.Weights(_ml.Model.Load(file, out _)));

            if (!isKept)
                continue;
            Assert.Equal("checkpoint-00000002", CheckpointNames(checkpoints.Folder).Single());
            Assert.Equal(expected, Tiny.Weights(Fit(stage, new() { Checkpoints = checkpoints })));
        }
    }

    [Theory]
    [InlineData(Stage.Ppo)]
    [InlineData(Stage.Grpo)]
    [InlineData(Stage.Rloo)]
    public void Canceled_in_the_middle_of_an_update_it_keeps_the_update_before(Stage stage)
    {
        const int EpisodesPerUpdate = 4;
        var expected = Tiny.Weights(Fit(stage, new() { Reward = Scored(() => { }) }));
        foreach (var action in Enum.GetValues<CancellationAction>())
        {
            var checkpoints = Checkpoints with { Folder = Path.Combine(_root, $"{action}") };
            using var cancellation = new CancellationTokenSource();
            int rewards = 0;
            var progress = new ProgressRecords();
            var settings = new StageSettings
            {
                Checkpoints = checkpoints, WhenCanceled = action, CancellationToken = cancellation.Token, Progress = progress,
                Reward = Scored(() => { if (++rewards == EpisodesPerUpdate + 1) cancellation.Cancel(); }), // in the second update
            };
            if (action == CancellationAction.Throw)
                Assert.ThrowsAny<OperationCanceledException>(() => Fit(stage, settings));
            else
                Fit(stage, settings);

            Assert.Equal(1, progress.Single().Step);
            Assert.Equal(2 * EpisodesPerUpdate, rewards); // not one more update was sampled
            Assert.Equal("checkpoint-00000001", CheckpointNames(checkpoints.Folder).Single());
            Assert.Equal(expected, Tiny.Weights(Fit(stage, new() { Checkpoints = checkpoints, Reward = Scored(() => { }) })));
        }
    }

    [Theory]
    [InlineData(Stage.FineTuning)]
    [InlineData(Stage.Ppo)]
    [InlineData(Stage.Grpo)]
    public void A_cancellation_of_the_users_own_code_is_not_taken_for_the_runs(Stage stage)
    {
        var ofProgress = new ProgressRecords(p => { if (p.Step == 2) throw new OperationCanceledException("My own."); });
        AssertPassesThrough(new() { Progress = ofProgress });
        int rewards = 0;
        if (stage.IsOnline())
            AssertPassesThrough(new() { Reward = Scored(() => { if (++rewards == 6) throw new OperationCanceledException("My own."); }) });

        void AssertPassesThrough(StageSettings settings) => Assert.Equal("My own.", Assert.Throws<OperationCanceledException>(
            () => Fit(stage, settings with { WhenCanceled = CancellationAction.ReturnModel })).Message);
    }

    [Fact]
    public void A_folder_that_cannot_be_one_is_an_error_before_anything_is_trained()
    {
        string file = Path.Combine(_root, "file");
        File.WriteAllText(file, "");
        foreach (string folder in new[] { file, Path.Combine(file, "run"), Path.Combine(_root, new string('x', 300)) })
        {
            var progress = new ProgressRecords();
            var error = Assert.Throws<IOException>(
                () => Fit(Stage.FineTuning, new() { Checkpoints = Checkpoints with { Folder = folder }, Progress = progress }));
            Assert.StartsWith($"CheckpointOptions.Folder '{folder}' cannot be written: ", error.Message);
            Assert.EndsWith("Choose a folder that can be, or free some space.", error.Message);
            Assert.Empty(progress);
        }
    }

    [Theory]
    [InlineData("run.json", "'{0}', which says what the run is, could not be written: ")]
    [InlineData("progress.jsonl", "'{0}', the history of the run, cannot be written: ")]
    public void A_folder_in_the_place_of_a_file_is_an_error_before_anything_is_trained(string name, string expected)
    {
        string path = Directory.CreateDirectory(Path.Combine(Folder, name)).FullName;
        var progress = new ProgressRecords();

        var error = Assert.Throws<IOException>(() => Fit(Stage.FineTuning, new() { Checkpoints = Checkpoints, Progress = progress }));

        Assert.StartsWith(string.Format(null, expected, path), error.Message);
        Assert.Contains("call Fit again: no checkpoint was changed.", error.Message);
        Assert.Empty(progress);
    }

    [Theory]
    [InlineData("checkpoint-00000003.tmp")] // cannot be made
    [InlineData("checkpoint-00000003")] // cannot be renamed to
    public void A_file_where_a_checkpoint_must_be_is_an_error_that_leaves_those_before_whole(string name)
    {
        var expected = Tiny.Weights(Fit(Stage.FineTuning, new()));
        var checkpoints = Checkpoints with { EverySteps = 1 };
        string file = Path.Combine(Folder, name);
        var progress = new ProgressRecords(p => { if (p.Step == 3) File.WriteAllText(file, ""); });

        var error = Assert.Throws<IOException>(() => Fit(Stage.FineTuning, new() { Checkpoints = checkpoints, Progress = progress }));

        string checkpoint = Path.Combine(Folder, "checkpoint-00000003");
        Assert.StartsWith($"The checkpoint of step 3 could not be written to '{checkpoint}': ", error.Message);
        Assert.Contains("Free some space, or mend the folder, and call Fit again", error.Message);
        Assert.Equal(["checkpoint-00000001", "checkpoint-00000002"], CheckpointNames(Folder));
        Assert.All(CheckpointNames(Folder), before => RunCheckpoint.Open(Path.Combine(Folder, before)));
        File.Delete(file);
        Assert.Equal(expected, Tiny.Weights(Fit(Stage.FineTuning, new() { Checkpoints = checkpoints })));
    }

    [Fact]
    public void An_old_checkpoint_that_cannot_be_deleted_is_a_warning()
    {
        var expected = Tiny.Weights(Fit(Stage.FineTuning, new()));
        var warnings = _ml.Warnings();
        var progress = new ProgressRecords(
            p => { if (p.Step == 2) File.WriteAllText(Path.Combine(Folder, "checkpoint-00000001.old.tmp"), ""); });

        var model = Fit(Stage.FineTuning, new() { Checkpoints = Checkpoints with { EverySteps = 1, Keep = 1 }, Progress = progress });

        Assert.Contains(warnings, warning => warning.StartsWith("An old checkpoint could not be deleted: ", StringComparison.Ordinal));
        Assert.Equal(expected, Tiny.Weights(model));
    }

    [Fact]
    public void A_folder_that_vanishes_while_the_run_goes_on_is_an_error_and_is_not_made_again()
    {
        var progress = new ProgressRecords(p => { if (p.Step == 2) Directory.Delete(Folder, recursive: true); });

        var error = Assert.Throws<IOException>(
            () => Fit(Stage.FineTuning, new() { Checkpoints = Checkpoints with { EverySteps = 1 }, Progress = progress }));

        Assert.Contains("could not be written", error.Message);
        Assert.Contains("The folder is not there any more", error.Message);
        Assert.False(Directory.Exists(Folder));
    }

    [Fact]
    public void A_checkpoint_that_vanishes_while_the_run_goes_on_harms_nothing()
    {
        var expected = Tiny.Weights(Fit(Stage.FineTuning, new()));
        string checkpoint = Path.Combine(Folder, "checkpoint-00000002");
        var progress = new ProgressRecords(p => { if (p.Step == 3) Directory.Delete(checkpoint, recursive: true); });

        var model = Fit(Stage.FineTuning, new() { Checkpoints = Checkpoints with { EverySteps = 1, Keep = 1 }, Progress = progress });

        Assert.Equal(expected, Tiny.Weights(model));
    }

    [Fact]
    public void A_checkpoint_that_cannot_be_read_is_an_error_and_stays_where_it_is()
    {
        Assert.Throws<TimeoutException>(
            () => Fit(Stage.FineTuning, new() { Checkpoints = Checkpoints with { EverySteps = 1 }, Progress = FailingAt(3) }));
        string file = Path.Combine(Folder, "checkpoint-00000002", "run.json"), aside = file + ".aside";
        File.Move(file, aside);
        Directory.CreateDirectory(file); // a folder cannot be read as a file, whoever may do what

        var error = Assert.Throws<IOException>(() => Fit(Stage.FineTuning, new() { Checkpoints = Checkpoints }));

        Assert.StartsWith($"The checkpoint '{Path.GetDirectoryName(file)}' cannot be read, in run.json: ", error.Message);
        Assert.Equal(["checkpoint-00000001", "checkpoint-00000002"], CheckpointNames(Folder));
        Directory.Delete(file);
        File.Move(aside, file);
        Fit(Stage.FineTuning, new() { Checkpoints = Checkpoints });
    }

    [Fact]
    public void Data_that_vanish_while_the_run_goes_on_were_read_before_and_are_missed_by_the_next_run()
    {
        string file = Path.Combine(_root, "data.jsonl");
        File.WriteAllLines(file, Tiny.Demonstrations.Select(d => $$"""{"prompt": "{{d.Prompt}}", "completion": "{{d.Completion}}"}"""));
        var progress = new ProgressRecords(p =>
        {
            if (p.Step == 1)
                File.Delete(file);
            if (p.Step == 3)
                throw new TimeoutException();
        });
        var data = _ml.Data.LoadFromJsonLines<Demonstration>(file);
        var settings = new StageSettings { Steps = Steps, Checkpoints = Checkpoints with { EverySteps = 1 }, Progress = progress };
        Assert.Throws<TimeoutException>(() => { Stage.FineTuning.Trainer(_ml, settings).Fit(data); });

        var error = Assert.ThrowsAny<IOException>(
            () => { Stage.FineTuning.Trainer(_ml, new() { Steps = Steps, Checkpoints = Checkpoints }).Fit(data); });

        Assert.Contains(file, error.Message);
        Assert.Equal("checkpoint-00000002", CheckpointNames(Folder)[^1]);
        RunCheckpoint.Open(Path.Combine(Folder, "checkpoint-00000002"));
    }

    /// <summary>A property that is neither compared nor named here would change between two runs unseen.</summary>
    [Theory, EveryStage]
    public void Every_option_is_compared_or_known_to_change_no_weight(Stage stage)
    {
        var trainer = stage.Trainer(_ml);
        var options = trainer.GetType().GetFields(BindingFlags.Instance | BindingFlags.NonPublic)
            .Select(field => field.GetValue(trainer)).OfType<OptimizationOptions>().Single();
        string[] compared = [.. OptionValues.Of(options).Select(option => option.Name.Split('.')[0]).Distinct()];
        string[] notCompared =
        [
            // Who listens, where, and when it ends; the run knows its seed.
            "Progress", "CancellationToken", "Checkpoints", "WhenCanceled", "MaxSkippedSteps", "Seed",
            // How the trained model will answer, and in which columns.
            "Sampling",
            // Read as tokens, which have fingerprints of their own.
            "ValidationData", "PretrainingData", "Demonstrations", "Tokenizer", "ChatTemplate", "Conversations",
            // Its reward models are watched, not learned from.
            "GoldReward",
            // Where tokens are kept.
            "TokenFile",
        ];

        string[] forgotten = [.. options.GetType().GetProperties(BindingFlags.Public | BindingFlags.Instance).Select(p => p.Name)
            .Where(name => !name.EndsWith("ColumnName", StringComparison.Ordinal)).Except(compared).Except(notCompared)];

        Assert.Empty(forgotten);
        Assert.Empty(compared.Intersect(notCompared));
        Assert.Contains("LearningRate", compared);
    }

    private static string Content(Stage stage) => stage.IsOnline() ? "Prompts" : "Data";

    /// <summary>A reward, and what happens each time that it is asked for.</summary>
    private static Func<string, string, float> Scored(Action then) => (_, completion) =>
    {
        then();
        return completion.Sum(c => c) / 100f;
    };

    private ITransformer Fit(Stage stage, StageSettings settings) =>
        stage.Trainer(_ml, settings with { Steps = Steps }).Fit(stage.Data(_ml));

    /// <summary>Cancels after step 2, and sees that no step follows.</summary>
    private static ITransformer FitCanceled(Stage stage, bool byContext, StageSettings settings)
    {
        var ml = new MLContext(seed: 1);
        using var cancellation = new CancellationTokenSource();
        var progress = new ProgressRecords(p =>
        {
            Assert.InRange(p.Step, 1, 2);
            if (p.Step == 2 && byContext)
                typeof(MLContext).GetMethod("CancelExecution", BindingFlags.Instance | BindingFlags.NonPublic)!.Invoke(ml, null);
            else if (p.Step == 2)
                cancellation.Cancel();
        });
        return stage.Trainer(ml, settings with { Steps = Steps, Progress = progress, CancellationToken = cancellation.Token })
            .Fit(stage.Data(ml));
    }

    private static ProgressRecords FailingAt(int step) => new(p => { if (p.Step == step) throw new TimeoutException(); });

    private static string[] CheckpointNames(string folder) =>
        [.. Directory.GetDirectories(folder, "checkpoint-*").Select(Path.GetFileName).Order()!];
}
