using System.Globalization;
using System.Text.RegularExpressions;
using ML.Rlhf.Torch.Checkpoints;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Native;
using static TorchSharp.torch;

namespace ML.Rlhf.Samples.Tests;

[Trait("Tier", "Slow")]
public sealed partial class VerifyImportTests : IDisposable
{
    private const string Sample = "samples/verify-import.cs", Fixtures = "tests/ML.Rlhf.Torch.Tests/Fixtures/models";

    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public async Task Every_model_that_transformers_saved_computes_the_same_here()
    {
        foreach (string folder in Directory.GetDirectories(Path.Combine(Repository.Root, Fixtures)).Order())
        {
            var (exitCode, text) = await Repository.DotNet("run", Sample, folder);

            Assert.True(exitCode == 0, text);
            string line = text.TrimEnd().Split('\n')[^1];
            Assert.Matches($@"^{Path.GetFileName(folder)} (logits|scores) max_abs_diff=\S+( greedy_equal=true)? grad_max_rel_diff=\S+$", line);
        }
    }

    [Fact]
    public async Task A_model_that_computes_something_else_fails()
    {
        foreach (string file in Directory.GetFiles(Path.Combine(Repository.Root, Fixtures, "gpt2")))
            File.Copy(file, Path.Combine(_folder, Path.GetFileName(file)));
        string config = Path.Combine(_folder, "config.json");
        File.WriteAllText(config, File.ReadAllText(config).Replace("gelu_new", "relu"));

        var (exitCode, text) = await Repository.DotNet("run", Sample, _folder);

        Assert.Equal(1, exitCode);
        Assert.Contains("greedy_equal=false", text);
    }

    /// <summary>The whole process is measured, so it must be one of its own.</summary>
    [Theory]
    [InlineData(WeightType.Float32), InlineData(WeightType.BFloat16), InlineData(WeightType.Float16)]
    public async Task A_model_of_GPT2s_size_is_in_memory_once(WeightType type)
    {
        LibTorch.EnsureLoaded();
        using (var generator = new Generator(1, CPU))
        using (var model = new Gpt(GptArchitecture.Gpt2, generator))
            Pretrained.Save(model, _folder, type);

        var (exitCode, text) = await Repository.DotNet("run", Sample, _folder);

        Assert.True(exitCode == 0, text);
        var growth = Growth().Match(text);
        Assert.True(growth.Success, text);
        Assert.InRange(double.Parse(growth.Groups[1].Value, CultureInfo.InvariantCulture), 0.9, 1.1);
    }

    [GeneratedRegex(@"124439808 parameters in .* grown by (\d\.\d\d) times their size")]
    private static partial Regex Growth();
}
