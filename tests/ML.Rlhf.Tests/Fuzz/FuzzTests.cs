using ML.Rlhf.TestSupport;

namespace ML.Rlhf.Tests.Fuzz;

/// <summary>
/// Files that accidents and attackers have changed. Each is read, or refused as the documentation of its reader says; nothing crashes,
/// hangs, fills the memory or leaves tensors behind. What once broke something is kept in <c>Fixtures/fuzz-corpus</c>.
/// </summary>
public sealed class FuzzTests
{
    private const string WorkVariable = "ML_RLHF_FUZZ";
    private const int MaximumMegabytes = 1000;

    public static TheoryData<string> Formats => [.. FuzzFormat.Names];

    [Theory]
    [MemberData(nameof(Formats))]
    public void Damaged_files_are_read_or_refused(string format)
    {
        int count = format == "model.zip" ? 150 : 300;
        AssertGood(FuzzRun.Run(format, firstSeed: 1, count));
    }

    /// <summary>206,000 files in two or three minutes, each format in a process of its own, whose memory is measured.</summary>
    [Theory, Trait("Tier", "Slow")]
    [InlineData("jsonl", 80_000)]
    [InlineData("tokenizers", 20_000)]
    [InlineData("safetensors", 25_000)]
    [InlineData("configs", 15_000)]
    [InlineData("model.zip", 8_000)]
    [InlineData("jinja", 40_000)]
    [InlineData("chat", 12_000)]
    [InlineData("peft", 6_000)]
    public async Task Many_damaged_files_are_read_or_refused_in_bounded_memory(string format, int count)
    {
        string folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;
        string report = Path.Combine(folder, "report.txt");
        var result = await DotNet.Run(
            AppContext.BaseDirectory,
            ["exec", typeof(FuzzTests).Assembly.Location, "--explicit", "only", "--filter-class", typeof(FuzzTests).FullName!],
            (WorkVariable, $"{format} {count} {report}"), ("OMP_NUM_THREADS", "1"));

        Assert.True(File.Exists(report), $"The process crashed with exit code {result.ExitCode}.\n{result.Everything}");
        string[] lines = File.ReadAllLines(report);
        ResultLine.Print(lines[0]);
        TestContext.Current.TestOutputHelper!.WriteLine(lines[0]);
        Assert.True(lines.Length == 1, $"{string.Join('\n', lines)}\nThe files are kept in {folder}.");
        Assert.InRange(int.Parse(lines[0].Split("peak=")[1].Split("MB")[0]), 0, MaximumMegabytes);
        Directory.Delete(folder, recursive: true);
    }

    /// <summary>The work of the process above. Nothing else runs in it.</summary>
    [Fact(Explicit = true)]
    public void Run_of_one_process()
    {
        Assert.SkipWhen(Environment.GetEnvironmentVariable(WorkVariable) is null, "Nobody asked for it.");
        string[] work = Environment.GetEnvironmentVariable(WorkVariable)!.Split(' ', 3);
        var result = FuzzRun.Run(work[0], firstSeed: 1_000_000, int.Parse(work[1]), Path.GetDirectoryName(work[2]));
        File.WriteAllLines(work[2], [result.ToString(), .. result.Failures]);
    }

    /// <summary>A file of the corpus lies at its format, the place that it stands for, and is named after what it broke.</summary>
    [Theory]
    [MemberData(nameof(Formats))]
    public void What_once_broke_something_is_read_or_refused(string format)
    {
        string folder = Golden.PathOf($"fuzz-corpus/{format}");
        if (!Directory.Exists(folder))
            return;
        using var reader = FuzzFormat.Create(format);
        var inputs = Directory.GetFiles(folder, "*", SearchOption.AllDirectories).Order(StringComparer.Ordinal).Select(file =>
        {
            string name = Path.GetRelativePath(folder, file);
            return (name, new FuzzInput(Path.GetDirectoryName(name)!.Replace('\\', '/'), File.ReadAllBytes(file)));
        }).ToArray();

        var result = FuzzRun.Run(reader, format, inputs);

        Assert.True(result.Failures.Count == 0, string.Join('\n', result.Failures));
    }

    /// <summary>The damage is neither always harmless nor always deadly.</summary>
    private static void AssertGood(FuzzResult result)
    {
        Assert.True(result.Failures.Count == 0, string.Join('\n', result.Failures));
        Assert.InRange(result.Refused, result.Count / 20, result.Count * 99 / 100);
    }
}
