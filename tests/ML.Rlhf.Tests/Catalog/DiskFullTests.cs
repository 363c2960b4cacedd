using System.Diagnostics;
using System.Runtime.InteropServices;
using ML.Rlhf.Torch.Training;

namespace ML.Rlhf.Tests.Catalog;

/// <summary>
/// Training in a process of its own, on a disk that is really full: each file that a run writes is once the one that does not fit, by its
/// first byte, in its middle, and by its last one.
/// </summary>
[Trait("Tier", "Slow")]
public sealed class DiskFullTests(ITestOutputHelper output) : IDisposable
{
    private const int Page = 4096;

    private static readonly Lazy<Task<Run>> s_whole = new(async () =>
    {
        string root = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;
        var whole = await Start(Path.Combine(root, "run"), "exec \"$@\"");
        var sizes = Directory.GetFiles(Directory.GetDirectories(Path.Combine(root, "run"), "checkpoint-*")[0])
            .ToDictionary(file => Path.GetFileName(file), file => new FileInfo(file).Length);
        Directory.Delete(root, recursive: true);
        return whole with { Sizes = sizes };
    });

    private readonly string _root = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;

    public void Dispose() => Directory.Delete(_root, recursive: true);

    [Fact]
    public async Task A_file_that_may_not_grow_ends_the_run_with_an_error_and_nothing_is_lost()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux() && File.Exists("/usr/bin/prlimit"), "There is no prlimit to limit a file's size with.");
        var sizes = (await s_whole.Value).Sizes!;
        // Both are too large to a limit that is smaller than they are; the run's own run.json is written first.
        long run = sizes["run.json"], state = sizes["state.safetensors"];
        (long Limit, string Error)[] points =
        [
            .. new[] { 0, run / 2, run - 1 }.Select(limit => (limit, "run.json', which says what the run is, could not be written: ")),
            .. new[] { run, state / 2, state - 1 }.Select(limit => (limit, "The checkpoint of step 3 could not be written to ")),
        ];
        await Parallel.ForEachAsync(points, TwoAtOnce, async (point, _) =>
        {
            string folder = Path.Combine(_root, $"limit-{point.Limit}", "run");
            // The process may not write more than that into a file; it is told so, and not killed by the signal.
            var full = await Start(folder, $"trap '' XFSZ; exec prlimit --fsize={point.Limit} --core=0 \"$@\"");
            await AssertSurvives(full, folder, $"files of {point.Limit} bytes", point.Error, checkpoints: 0);
        });
    }

    [Fact]
    public async Task A_disk_that_is_full_ends_the_run_with_an_error_and_nothing_is_lost()
    {
        await RequireSmallDisks();
        var sizes = (await s_whole.Value).Sizes!;
        int state = (int)((sizes["state.safetensors"] + Page - 1) / Page), checkpoint = state + 3, begin = 2; // run.json and progress.jsonl
        (int Pages, string File, int Checkpoints)[] points =
        [
            (1, "progress.jsonl", 0),
            .. After(begin, step: 3, checkpoints: 0),
            .. After(begin + checkpoint, step: 6, checkpoints: 1),
            .. After(begin + 2 * checkpoint, step: 9, checkpoints: 2), // before the oldest one is deleted
        ];
        await Parallel.ForEachAsync(points, TwoAtOnce, async (point, _) =>
        {
            string folder = Path.Combine(_root, $"pages-{point.Pages}", "run");
            var full = await StartOnSmallDisk(folder, $"size={point.Pages * Page}");
            await AssertSurvives(full, folder, $"{point.Pages} pages", point.File, point.Checkpoints);
        });

        IEnumerable<(int, string, int)> After(int pages, int step, int checkpoints)
        {
            string name = $"checkpoint-{step:D8}.tmp/";
            foreach (int part in new[] { 0, state / 2, state - 1 })
                yield return (pages + part, name + "state.safetensors", checkpoints);
            yield return (pages + state, name + "state.json", checkpoints);
            yield return (pages + state + 1, name + "run.json", checkpoints);
            yield return (pages + state + 2, name + "manifest.json", checkpoints);
        }
    }

    [Fact]
    public async Task A_disk_that_holds_no_more_files_ends_the_run_with_an_error_and_nothing_is_lost()
    {
        await RequireSmallDisks();
        // The disk's root and the run's folder are files, too.
        string[] errors =
        [
            "cannot be written: ", "run.json', which says what the run is, could not be written: ",
            "progress.jsonl', the history of the run, cannot be written: ",
            .. Enumerable.Repeat("The checkpoint of step 3 could not be written to ", 5),
        ];
        await Parallel.ForEachAsync(errors.Index(), TwoAtOnce, async (error, _) =>
        {
            int files = 2 + error.Index;
            string folder = Path.Combine(_root, $"files-{files}", "run");
            var full = await StartOnSmallDisk(folder, $"size=10m,nr_inodes={files}");
            await AssertSurvives(full, folder, $"{files} files", error.Item, checkpoints: 0);
        });
    }

    private static ParallelOptions TwoAtOnce => new() { MaxDegreeOfParallelism = 2 };

    /// <summary>The error, what is left, and that a run with more space goes on from it.</summary>
    private async Task AssertSurvives(Run full, string folder, string point, string error, int checkpoints)
    {
        string story = $"{point}:\n{full.Output}";
        Assert.True(full.Weights is null, story);
        Assert.Contains("Unhandled exception. System.IO.IOException: ", full.Output); // .NET's end of a program that catches nothing
        string message = full.Output.Split("System.IO.IOException: ")[1].Split('\n')[0];
        Assert.True(message.Contains(error, StringComparison.Ordinal), $"'{error}' is not in the error of {story}");
        Assert.True(message.Contains("ree some space", StringComparison.Ordinal), story);

        Directory.CreateDirectory(folder);
        string[] left = [.. Directory.GetDirectories(folder, "checkpoint-*").Order()];
        Assert.True(left.Length == checkpoints, $"{left.Length} checkpoints are left of {story}");
        Assert.All(left, checkpoint => RunCheckpoint.Open(checkpoint));

        var again = await Start(folder, "exec \"$@\"");
        Assert.True(again.Weights == (await s_whole.Value).Weights, $"{story}\nAgain:\n{again.Output}");
        output.WriteLine($"disk-full {point}: {checkpoints} checkpoints before it whole, same weights with more space. {message}");
    }

    private static async Task RequireSmallDisks()
    {
        var (code, text) = OperatingSystem.IsLinux()
            ? await Execute("unshare", ["-rm", "bash", "-c", "mount -t tmpfs -o size=64k tmpfs /mnt"])
            : (1, "tmpfs is Linux'.");
        Assert.SkipUnless(code == 0, $"This user may not mount a small disk: {text}");
    }

    /// <summary>Trains on a disk of its own, and copies what is left there.</summary>
    private static Task<Run> StartOnSmallDisk(string folder, string options) => Start(folder,
        $$"""
        mount -t tmpfs -o {{options}} tmpfs /mnt && ulimit -c 0
        "${@:1:$#-1}" /mnt/run
        to="${@: -1}"; mkdir -p "$to"; test -d /mnt/run && cp -a /mnt/run/. "$to"
        """, "unshare", "-rm");

    /// <summary>Trains in a folder.</summary>
    /// <param name="folder">Where its checkpoints are.</param>
    /// <param name="script">What bash does; <c>"$@"</c> is the program with its arguments, of which the folder is the last.</param>
    /// <param name="before">What bash is an argument of.</param>
    private static async Task<Run> Start(string folder, string script, params string[] before)
    {
        string dotnet = Path.GetFullPath(Path.Combine(RuntimeEnvironment.GetRuntimeDirectory(), "..", "..", "..", "dotnet"));
        string program = Path.Combine(AppContext.BaseDirectory, "ML.Rlhf.Survivor.dll");
        string[] command = [.. before, "bash", "-c", script, "bash", dotnet, program, "gpt", folder];
        var (_, text) = await Execute(command[0], command[1..]);
        string? weights = text.Split('\n').FirstOrDefault(line => line.StartsWith("weights ", StringComparison.Ordinal));
        return new Run(text, weights, Sizes: null);
    }

    private static async Task<(int Code, string Output)> Execute(string program, string[] arguments)
    {
        var start = new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true, RedirectStandardError = true };
        start.Environment["OMP_NUM_THREADS"] = "1";
        start.Environment["DOTNET_EnableDiagnostics"] = "0";
        start.Environment["DOTNET_EnableWriteXorExecute"] = "0"; // its memory is a file, whose size is limited, too
        bool IsOfTestRun(string name) => name.StartsWith("TESTINGPLATFORM", StringComparison.Ordinal);
        foreach (string name in start.Environment.Keys.Where(IsOfTestRun).ToArray())
            start.Environment.Remove(name);
        using var process = Process.Start(start)!;
        var texts = await Task.WhenAll(process.StandardOutput.ReadToEndAsync(), process.StandardError.ReadToEndAsync());
        await process.WaitForExitAsync();
        return (process.ExitCode, string.Concat(texts));
    }

    /// <summary>What a process printed, and the files of a checkpoint.</summary>
    private sealed record Run(string Output, string? Weights, Dictionary<string, long>? Sizes);
}
