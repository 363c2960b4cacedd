using ML.Rlhf.TestSupport;

namespace ML.Rlhf.Samples.Tests;

/// <summary>Each small script of the samples runs as its header says, in an empty folder, and ends with the line that it promises.</summary>
[Trait("Tier", "Slow")]
public sealed class ScriptTests : IDisposable
{
    private const string Number = @"-?\d+\.\d+";

    /// <summary>Larger ones have tests of their own, and take data that is not part of the repository or last longer.</summary>
    private static readonly string[] s_others =
        ["quickstart", "random-walks", "over-optimization", "positive-reviews", "helpful-harmless", "lstm-against-gpt", "verify-import"];

    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;

    public static TheoryData<string, string, string[]> Scripts => new()
    {
        { "pretrain", $"saved=gpt.zip loss={Number} bits-per-character={Number}", ["gpt.zip"] },
        { "fine-tune", $"saved=servant.zip loss before={Number} after={Number}", ["servant.zip"] },
        { "reward-model", $@"saved=reward.zip accuracy={Number} length-baseline={Number} pairs=\d+", ["reward.zip"] },
        { "ppo-with-sentiment", $"polite before={Number} after={Number} kl={Number}", [] },
        { "ppo-with-rule", $"reward before={Number} after={Number} words before={Number} after={Number}", [] },
        { "dpo", $@"win-rate={Number} ci95=\[{Number},{Number}\] gold before={Number} after={Number} kl={Number}", [] },
        { "grpo", $@"win-rate={Number} ci95=\[{Number},{Number}\] gold before={Number} after={Number} kl={Number}", [] },
        { "best-of-n", $@"saved=best-of-16.zip gold( n=\d+:{Number}){{5}}", ["best-of-16.zip"] },
        { "import-and-lora", $@"adapter-KB=\d+ merged-KB=\d+ loss before={Number} after={Number}",
            ["adapter/adapter_config.json", "adapter/adapter_model.safetensors", "merged/model.safetensors", "merged/tokenizer.json"] },
        { "embeddings", $"saved=polite.zip accuracy={Number} auc={Number}", ["polite.zip"] },
        { "sweep", $@"rate={Number} batch=\d+ epochs=\d+ cross-validated-loss={Number} held-out-loss={Number} held-out-accuracy={Number}", [] },
    };

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [MemberData(nameof(Scripts))]
    public async Task A_script_ends_with_the_line_that_its_header_shows(string name, string ending, string[] files)
    {
        string last = await Run(name, "--fast");

        Assert.Matches($"^{name} {ending}$", last);
        Assert.All(files, file => Assert.True(File.Exists(Path.Combine(_folder, file)), file));
        string header = string.Concat(Header(name));
        Assert.Matches($"//   {name} {ending}\n", header);
    }

    /// <summary>What one script saves, a program that knows nothing of the pack loads.</summary>
    [Fact]
    public async Task The_model_of_PPO_answers_in_a_program_without_a_call_to_the_pack()
    {
        Assert.Matches($@"^ppo saved=policy.zip win-rate={Number} ci95=\[{Number},{Number}\] gold before={Number} after={Number} kl={Number}$",
            await Run("ppo", "--fast"));

        Assert.Matches("^consume-model TextGenerationTransformer answer=.+$", await Run("consume-model", "policy.zip", "bring me the red cup"));
        Assert.DoesNotContain("Rlhf", string.Concat(Code("consume-model")));
    }

    [Fact]
    public async Task The_servant_answers_each_line_until_an_empty_one()
    {
        using var process = DotNet.Start(_folder, ["run", Path.Combine(Repository.Root, "samples", "chat.cs"), "--", "--fast"], redirectInput: true);
        await process.StandardInput.WriteAsync("bring me the red cup\nbring me the old clock\n\nthis is not read\n");
        process.StandardInput.Close();
        string output = await process.StandardOutput.ReadToEndAsync(TestContext.Current.CancellationToken);
        await process.WaitForExitAsync(TestContext.Current.CancellationToken);

        Assert.Equal(0, process.ExitCode);
        Assert.EndsWith("chat answers=2", output.TrimEnd());
    }

    [Fact]
    public async Task A_text_that_is_too_short_to_learn_from_is_an_error_that_says_so()
    {
        File.WriteAllText(Path.Combine(_folder, "short.txt"), "one line");
        var result = await DotNet.Run(_folder, ["run", Path.Combine(Repository.Root, "samples", "pretrain.cs"), "--", "short.txt"]);

        Assert.Equal(1, result.ExitCode);
        Assert.Contains("short.txt has 1 lines that are not empty, but 100 are needed.", result.Errors);
    }

    [Fact]
    public void Each_script_says_how_to_run_it_how_long_it_takes_and_what_it_ends_with()
    {
        foreach (string name in Names)
        {
            string header = string.Concat(Header(name));
            Assert.Contains($"//   dotnet run samples/{name}.cs", header);
            Assert.Matches("minute|seconds", header);
            if (!s_others.Contains(name))
                Assert.Matches($"//   (> )?{name} ", header);
        }
    }

    [Fact]
    public void A_small_script_fits_on_a_page()
    {
        foreach (string name in Names.Except(s_others))
            Assert.InRange(Code(name).Count(), 15, 80);
    }

    [Fact]
    public void Each_script_has_a_test() => Assert.Equal(
        Names.Order(), [.. Scripts.Select(script => script.Data.Item1).Concat(s_others).Concat(["ppo", "consume-model", "chat"]).Order()]);

    private static IEnumerable<string> Names =>
        Directory.GetFiles(Path.Combine(Repository.Root, "samples"), "*.cs").Select(file => Path.GetFileNameWithoutExtension(file));

    private static string[] Lines(string name) =>
        [.. File.ReadLines(Path.Combine(Repository.Root, "samples", name + ".cs")).Select(line => line + "\n")];

    private static IEnumerable<string> Header(string name) =>
        Lines(name).SkipWhile(line => line.StartsWith('#') || line == "\n").TakeWhile(line => line.StartsWith("//", StringComparison.Ordinal));

    private static IEnumerable<string> Code(string name) =>
        Lines(name).SkipWhile(line => !line.StartsWith("using ", StringComparison.Ordinal)).Where(line => line.Trim().Length > 0);

    private async Task<string> Run(string name, params string[] arguments)
    {
        var result = await DotNet.Run(_folder, ["run", Path.Combine(Repository.Root, "samples", name + ".cs"), "--", .. arguments]);
        Assert.True(result.ExitCode == 0, result.Everything);
        return result.Output.TrimEnd().Split('\n')[^1];
    }
}
