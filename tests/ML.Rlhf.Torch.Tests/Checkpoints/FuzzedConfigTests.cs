using ML.Rlhf.Torch.Checkpoints;
using ML.Rlhf.Torch.Tests.Modules;

namespace ML.Rlhf.Torch.Tests.Checkpoints;

/// <summary>Configurations that accidents and attackers have changed: they are read or refused, and nothing else.</summary>
public sealed class FuzzedConfigTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [MemberData(nameof(ModelVariantTests.Folders), MemberType = typeof(ModelVariantTests))]
    [MemberData(nameof(GoldenModelTests.Folders), MemberType = typeof(GoldenModelTests))]
    public void A_damaged_configuration_is_read_or_refused(string model)
    {
        string json = File.ReadAllText(Golden.PathOf($"{model}/config.json")), path = Path.Combine(_folder, "config.json");
        int read = 0, refused = 0;
        for (int seed = 0; seed < 100; seed++)
        {
            File.WriteAllText(path, new Mutator(seed).Json(json));
            try
            {
                Assert.True(PretrainedConfig.Read(_folder).Architecture.ParameterCount > 0, "a shape that is read has parameters");
                read++;
            }
            catch (FormatException e)
            {
                Assert.Contains(path, e.Message);
                refused++;
            }
        }
        Assert.True(read > 5 && refused > 5, $"{read} were read and {refused} refused: the damage should be neither always harmless " +
            "nor always deadly.");
    }

    [Fact]
    public void A_configuration_that_asks_for_more_memory_than_there_are_weights_is_refused()
    {
        foreach (string file in Directory.GetFiles(Golden.PathOf("models/gpt2")))
            File.Copy(file, Path.Combine(_folder, Path.GetFileName(file)));
        string path = Path.Combine(_folder, "config.json");
        File.WriteAllText(path, File.ReadAllText(path).Replace("\"n_embd\": 44", "\"n_embd\": 44000"));

        string error = Assert.Throws<FormatException>(() => Pretrained.LanguageModel(_folder)).Message;

        Assert.Contains("a model with 69714128000 parameters, but weights of only", error);
    }
}
