using ML.Rlhf.Torch.Checkpoints;

namespace ML.Rlhf.Torch.Tests.Checkpoints;

/// <summary>JSON files of a pretrained model; <see cref="HostileWeightsTests"/> has more, with an index.</summary>
public sealed class PretrainedJsonTests : IDisposable
{
    private readonly string _path = Path.GetTempFileName();

    public void Dispose() => File.Delete(_path);

    [Fact]
    public void A_file_is_read()
    {
        File.WriteAllText(_path, """{"vocab_size": 50257, "unicode": "Ġ"}""");

        using var json = PretrainedJson.Read(_path);

        Assert.Equal(50257, json.RootElement.GetProperty("vocab_size").GetInt32());
        Assert.Equal("Ġ", json.RootElement.GetProperty("unicode").GetString());
    }

    [Fact]
    public void The_caller_may_know_how_large_a_file_can_be()
    {
        File.WriteAllText(_path, "\"" + new string('x', 98) + "\"");

        PretrainedJson.Read(_path, maximumBytes: 100).Dispose();
        Assert.Equal(
            $"'{_path}' has 100 bytes, and at most 99 are read. It is no such file of a pretrained model; download or save it again.",
            Assert.Throws<FormatException>(() => PretrainedJson.Read(_path, maximumBytes: 99)).Message);
    }

    [Theory]
    [InlineData(64, true)]
    [InlineData(65, false)]
    public void Nesting_ends_somewhere(int depth, bool isRead)
    {
        File.WriteAllText(_path, new string('[', depth) + new string(']', depth));

        if (isRead)
            PretrainedJson.Read(_path).Dispose();
        else
            Assert.StartsWith($"'{_path}' is not valid JSON: The maximum configured depth of 64 has been exceeded",
                Assert.Throws<FormatException>(() => PretrainedJson.Read(_path)).Message);
    }

    [Fact]
    public void A_file_that_is_not_there()
    {
        Assert.Equal(
            $"There is no file '{_path}.no'. Check the path, or download or save the model again, as a whole.",
            Assert.Throws<FileNotFoundException>(() => PretrainedJson.Read(_path + ".no")).Message);
    }
}
