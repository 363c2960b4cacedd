using System.Globalization;
using System.Text.RegularExpressions;
using Microsoft.ML;
using ML.Rlhf.TestSupport;

namespace ML.Rlhf.Tests.Catalog;

/// <summary>
/// Trainers in processes of their own, which are killed while they train and started again until they are done. ML_RLHF_KILLS is the number
/// of experiments of each trainer, ML_RLHF_KILL_SEED draws other moments.
/// </summary>
[Trait("Tier", "Slow")]
public sealed class KillAndResumeTests(ITestOutputHelper output) : IDisposable
{
    private const int Workers = 2;
    private const double OnceMore = 1 / 3.0;

    private static readonly int s_experiments = Number("ML_RLHF_KILLS") ?? 20;
    private static readonly int s_seed = Number("ML_RLHF_KILL_SEED") ?? 1;

    private readonly string _root = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;

    public void Dispose() => Directory.Delete(_root, recursive: true);

    [Theory]
    [InlineData("gpt")]
    [InlineData("lstm")]
    [InlineData("mlm")]
    [InlineData("encoder-decoder")]
    [InlineData("sft")]
    [InlineData("reward-model")]
    [InlineData("ppo")]
    [InlineData("ppo-lora")]
    [InlineData("grpo")]
    [InlineData("rloo")]
    [InlineData("dpo")]
    [InlineData("kto")]
    [InlineData("orpo")]
    public async Task Killed_at_any_moment_and_resumed_it_gives_the_weights_of_a_run_without_a_break(string stage)
    {
        var runs = await Task.WhenAll(Survivor.Run(stage), Survivor.Run(stage, Path.Combine(_root, "whole")));
        var (without, whole) = (runs[0], runs[1]);
        Assert.True(without.IsDone && whole.IsDone, without.Output + whole.Output);
        Assert.Equal(without.Weights, whole.Weights); // writing checkpoints changes nothing
        Assert.Equal(whole.Weights, whole.Loaded);

        var experiments = new Experiment[s_experiments];
        await Parallel.ForAsync(0, s_experiments, new ParallelOptions { MaxDegreeOfParallelism = Workers },
            async (i, _) => experiments[i] = await Experiment.Run(stage, whole, Path.Combine(_root, $"{i}"), Draws(stage, i)));

        string history = CheckpointFolder.History(Path.Combine(_root, "whole"));
        bool IsEqual(Experiment e) => e.Weights == whole.Weights && e.History == history;
        int equal = experiments.Count(IsEqual);
        string line = $"kill-resume {stage} {equal}/{s_experiments}";
        output.WriteLine($"{line}; {experiments.Sum(e => e.Kills)} kills, {experiments.Sum(e => e.KillsWhileWriting)} of them while a " +
            $"checkpoint was written; {experiments.Sum(e => e.LateKills)} came too late and were drawn again");
        ResultLine.Print(line);
        Assert.True(equal == s_experiments, $"{line}. Without a break: {whole.Weights}\n{whole.Output}\n" +
            string.Join('\n', experiments.Where(e => !IsEqual(e)).Select(e => e.Story)));
    }

    [Theory]
    [InlineData("gpt")]
    [InlineData("ppo")]
    public async Task Killed_whenever_it_writes_a_checkpoint_even_the_first_it_comes_through(string stage)
    {
        const int Times = 6;
        string folder = Folder("written");
        var whole = await Survivor.Run(stage);
        var random = Draws(stage, s_experiments);

        int killsWhileWriting = 0;
        for (int i = 0; i < Times; i++)
        {
            // Every second time at the same checkpoint as before: the one that was not finished.
            string[] old = CheckpointFolder.Unfinished(folder);
            var run = await Survivor.Run(stage, folder, until: began => Task.Run(() =>
            {
                while (!CheckpointFolder.Unfinished(folder).Except(old).Any())
                    Thread.Sleep(0);
                Thread.SpinWait(random.Next(100_000));
            }));
            Assert.False(run.IsDone, run.Output);
            killsWhileWriting += CheckpointFolder.Unfinished(folder).Length > 0 ? 1 : 0;
        }
        var last = await Survivor.Run(stage, folder);

        output.WriteLine($"{killsWhileWriting} of {Times} kills left something unfinished.");
        Assert.True(last.Weights == whole.Weights, last.Output + whole.Output);
    }

    [Fact]
    public async Task Another_number_of_threads_is_a_warning()
    {
        string folder = Folder("threads");
        await Survivor.Run("gpt", folder, until: _ => FirstCheckpoint(folder));

        var resumed = await Survivor.Run("gpt", folder, threads: 2);

        Assert.True(resumed.IsDone, resumed.Output);
        Assert.Contains("Kind=Warning] The run goes on, but perhaps not with the bits that it would have had: Threads was 1 and is 2.",
            resumed.Output);
    }

    [Fact]
    public async Task A_run_goes_on_from_a_copy_in_another_place()
    {
        string folder = Folder("here"), copy = Path.Combine(Folder("there"), "copy"), other = Folder("other");
        var whole = await Survivor.Run("ppo");
        await Survivor.Run("ppo", folder, until: _ => FirstCheckpoint(folder));
        CheckpointFolder.Copy(CheckpointFolder.Checkpoints(folder)[^1], copy);
        Directory.Delete(folder, recursive: true);

        var resumed = await Survivor.Run("ppo", other, from: copy);

        Assert.True(resumed.Weights == whole.Weights, resumed.Output + whole.Output);
    }

    [Fact]
    public async Task Two_processes_cannot_train_in_one_folder()
    {
        string folder = Folder("shared");
        var ml = new MLContext(seed: 1);
        Survivor? second = null;
        var first = Stage.Ppo.Trainer(ml, new StageSettings
        {
            Checkpoints = new CheckpointOptions { Folder = folder },
            Progress = new ProgressRecords(_ => second ??= Survivor.Run("ppo", folder).GetAwaiter().GetResult()), // the first waits for it
        });

        await Task.Run(() => first.Fit(Stage.Ppo.Data(ml)));

        Assert.False(second!.IsDone, second.Output);
        Assert.Contains($"CheckpointOptions.Folder '{folder}' is in use by another run. Wait until it has ended, or choose another folder.",
            second.Output);
    }

    private string Folder(string name) => Directory.CreateDirectory(Path.Combine(_root, name)).FullName;

    private static async Task FirstCheckpoint(string folder)
    {
        while (CheckpointFolder.Checkpoints(folder).Length == 0)
            await Task.Delay(1);
    }

    private static Random Draws(string stage, int experiment) => new(s_seed * 1_000_000 + stage.Sum(c => c) * 1000 + experiment);

    private static int? Number(string variable) =>
        Environment.GetEnvironmentVariable(variable) is { } text ? int.Parse(text, CultureInfo.InvariantCulture) : null;

    /// <summary>One run that was killed at least once.</summary>
    private sealed class Experiment
    {
        private readonly List<string> _story = [];

        /// <summary>What happened, for a message.</summary>
        public string Story => string.Join('\n', _story);

        public string? Weights { get; private set; }

        /// <summary>What the run reported, in all of its processes.</summary>
        public string? History { get; private set; }

        /// <summary>How often a run that trained was killed.</summary>
        public int Kills { get; private set; }

        /// <summary>How many of these left something unfinished behind.</summary>
        public int KillsWhileWriting { get; private set; }

        /// <summary>How often training was over before its kill.</summary>
        public int LateKills { get; private set; }

        public static async Task<Experiment> Run(string stage, Survivor whole, string folder, Random random)
        {
            var experiment = new Experiment();
            TimeSpan begin = whole.Ready!.Value, length = whole.Trained!.Value - begin;

            // The first kill is within training: where it comes too late, it is drawn again, from nothing.
            Directory.CreateDirectory(folder);
            while (await experiment.Kill(stage, folder, random.NextDouble() * length, fromReady: true))
            {
                experiment.LateKills++;
                Directory.Delete(folder, recursive: true);
                Directory.CreateDirectory(folder);
            }

            // More of them may come at any time, also while the process starts, reads its checkpoint, or has nothing left to do.
            while (random.NextDouble() < OnceMore)
                await experiment.Kill(stage, folder, random.NextDouble() * (begin + length), fromReady: false);

            var last = await Survivor.Run(stage, folder);
            experiment._story.Add($"Resumed: {last.Weights}\n{last.Output}");
            experiment.Weights = last.Weights == last.Loaded ? last.Weights : null;
            experiment.History = CheckpointFolder.History(folder);
            Directory.Delete(folder, recursive: true);
            return experiment;
        }

        /// <returns>Whether there was nothing left to kill.</returns>
        private async Task<bool> Kill(string stage, string folder, TimeSpan after, bool fromReady)
        {
            var run = await Survivor.Run(stage, folder, until: async began =>
            {
                if (fromReady)
                    await began;
                await Task.Delay(after);
            });
            string[] unfinished = CheckpointFolder.Unfinished(folder);
            _story.Add($"Killed {after.TotalMilliseconds:F1} ms after {(fromReady ? "training began" : "its start")}:\n{run.Output}" +
                string.Concat(CheckpointFolder.Entries(folder).Select(entry => $"  {entry}\n")));
            if (!run.IsDone)
            {
                Kills++;
                KillsWhileWriting += unfinished.Length > 0 ? 1 : 0;
            }
            return run.IsDone;
        }
    }
}

/// <summary>What lies in a folder of checkpoints.</summary>
internal static partial class CheckpointFolder
{
    /// <summary>All of it, with sizes, for a message.</summary>
    public static IEnumerable<string> Entries(string folder) =>
        new DirectoryInfo(folder).EnumerateFileSystemInfos("*", SearchOption.AllDirectories)
            .Select(e => $"{Path.GetRelativePath(folder, e.FullName)} {(e as FileInfo)?.Length}").Order(StringComparer.Ordinal);

    /// <summary>Finished checkpoints, the newest last.</summary>
    public static string[] Checkpoints(string folder) =>
        [.. Directory.EnumerateDirectories(folder, "checkpoint-*").Where(d => FinishedName().IsMatch(Path.GetFileName(d)))
            .Order(StringComparer.Ordinal)];

    /// <summary>What a checkpoint is before it has its name. Old ones are called so, too, when they are deleted.</summary>
    public static string[] Unfinished(string folder) =>
        [.. Directory.EnumerateDirectories(folder, "checkpoint-*.tmp")
            .Where(d => string.CompareOrdinal(d, Checkpoints(folder).LastOrDefault()) > 0)];

    /// <summary>What the run reported of its steps, without what depends on the time.</summary>
    public static string History(string folder) => string.Join('\n',
        File.ReadLines(Path.Combine(folder, "progress.jsonl")).Select(line => TimeDependent().Replace(line, "")));

    public static void Copy(string folder, string to)
    {
        Directory.CreateDirectory(to);
        foreach (string file in Directory.EnumerateFiles(folder))
            File.Copy(file, Path.Combine(to, Path.GetFileName(file)));
    }

    [GeneratedRegex(@"^checkpoint-\d+$")]
    private static partial Regex FinishedName();

    [GeneratedRegex("""\"(tokens_per_second|episodes_per_second|elapsed_seconds|time/[a-z]+)\":[^,}]*""")]
    private static partial Regex TimeDependent();
}
