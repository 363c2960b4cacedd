using System.Buffers.Binary;
using System.Text;
using System.Text.Json;
using ML.Rlhf.Torch.Checkpoints;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Checkpoints;

/// <summary>Writing folders in the Hugging Face layout: another reader reads them, and a failure leaves what was there.</summary>
public sealed class PretrainedWriterTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;

    private string Single => Path.Combine(_folder, "model.safetensors");

    private string Index => Path.Combine(_folder, "model.safetensors.index.json");

    private string[] Files => [.. Directory.GetFiles(_folder).Select(f => Path.GetFileName(f)).Order(StringComparer.Ordinal)];

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void One_file_is_what_another_reader_expects()
    {
        Tensor a = randn(3, 5), b = randn(2, 3, 4), c = randn(1_500_000); // the last one in two pieces

        PretrainedWeights.Write(_folder, [("a", a.t()), ("b", b.select(2, 1)), ("c", c), ("none", zeros(0, 3))], maxShardBytes: 1 << 30);

        Assert.Equal(["model.safetensors"], Files);
        var read = Golden.Tensors(Single);
        Assert.Equal(["a", "b", "c", "none"], read.Keys);
        Close.AssertSameBits(a.t(), read["a"]);
        Close.AssertSameBits(b.select(2, 1), read["b"]);
        Close.AssertSameBits(c, read["c"]);
        Assert.Equal([0, 3], read["none"].shape);
        byte[] file = File.ReadAllBytes(Single);
        int header = (int)BinaryPrimitives.ReadInt64LittleEndian(file);
        Assert.StartsWith("""{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[5,3],"data_offsets":[0,60]}""",
            Encoding.UTF8.GetString(file, 8, header));
        Assert.Equal(0, header % 8);
    }

    [Fact]
    public void Shards_and_index_have_the_form_that_transformers_gives_them()
    {
        using var original = PretrainedWeights.Open(Golden.PathOf("models/gpt2-sharded"));
        var tensors = original.Tensors.Values.Select(t => (t.Name, Tensor: zeros(t.Shape))).ToArray();
        original.ReadAll(tensors, "", _ => false);

        PretrainedWeights.Write(_folder, tensors, maxShardBytes: 60_000);

        Assert.Equal(
            [.. Enumerable.Range(1, 3).Select(i => $"model-0000{i}-of-00003.safetensors"), "model.safetensors.index.json"], Files);
        using var theirs = JsonDocument.Parse(File.ReadAllBytes(Golden.PathOf("models/gpt2-sharded/model.safetensors.index.json")));
        using var ours = JsonDocument.Parse(File.ReadAllBytes(Index));
        Assert.Equal(
            theirs.RootElement.GetProperty("metadata").GetRawText(), ours.RootElement.GetProperty("metadata").GetRawText());
        var map = ours.RootElement.GetProperty("weight_map");
        Assert.Equal(
            theirs.RootElement.GetProperty("weight_map").EnumerateObject().Select(p => p.Name), map.EnumerateObject().Select(p => p.Name));
        foreach (string shard in Files[..3])
        {
            var read = Golden.Tensors(Path.Combine(_folder, shard));
            Assert.InRange(read.Values.Sum(t => t.numel() * 4), 1, 60_000);
            Assert.All(read, t => Assert.Equal(shard, map.GetProperty(t.Key).GetString()));
            Assert.All(read, t => Close.AssertSameBits(tensors.Single(e => e.Name == t.Key).Tensor, t.Value));
        }
        using var again = PretrainedWeights.Open(_folder);
        Assert.Equal(original.Tensors.Keys.Order(), again.Tensors.Keys.Order());
    }

    [Theory]
    [InlineData(ScalarType.Float16, "F16")]
    [InlineData(ScalarType.BFloat16, "BF16")]
    public void Half_precision_is_written_as_torch_rounds_it(ScalarType type, string name)
    {
        var numbers = randn(1000) * 1000;

        PretrainedWeights.Write(_folder, [("w", numbers)], maxShardBytes: 2000, type);

        using var weights = PretrainedWeights.Open(_folder);
        Assert.Equal(name, weights.Tensors["w"].Type);
        var read = zeros(1000);
        weights.Read("w", read);
        Close.AssertSameBits(numbers.to(type).to(float32), read);
        Assert.True(Close.Distance(numbers, read) > 0);
    }

    [Fact]
    public void A_tensor_larger_than_a_shard_has_one_of_its_own()
    {
        PretrainedWeights.Write(_folder, [("a", ones(1)), ("large", ones(100)), ("b", ones(1)), ("c", ones(1))], maxShardBytes: 8);

        Assert.Equal(["a"], Golden.Tensors(Path.Combine(_folder, "model-00001-of-00003.safetensors")).Keys);
        Assert.Equal(["large"], Golden.Tensors(Path.Combine(_folder, "model-00002-of-00003.safetensors")).Keys);
        Assert.Equal(["b", "c"], Golden.Tensors(Path.Combine(_folder, "model-00003-of-00003.safetensors")).Keys);
    }

    [Fact]
    public void What_another_number_of_files_left_is_removed_and_nothing_else()
    {
        File.WriteAllText(Path.Combine(_folder, "model-card.safetensors"), "");
        File.WriteAllText(Path.Combine(_folder, "config.json"), "{}");

        foreach (var (count, shardBytes) in new[] { (1, 8L), (2, 4L), (1, 8L) })
        {
            PretrainedWeights.Write(_folder, [("a", ones(1) * shardBytes), ("b", ones(1))], shardBytes);

            string[] expected = count == 1
                ? ["model.safetensors"]
                : ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"];
            Assert.Equal(["config.json", .. expected.Append("model-card.safetensors").Order(StringComparer.Ordinal)], Files);
            using var weights = PretrainedWeights.Open(_folder);
            var a = zeros(1);
            weights.Read("a", a);
            Assert.Equal(shardBytes, a.item<float>());
        }
    }

    [Theory]
    [InlineData(4)]
    [InlineData(8)]
    public void A_failure_leaves_the_model_that_was_there(long shardBytes)
    {
        PretrainedWeights.Write(_folder, [("a", ones(1)), ("b", ones(1))], shardBytes);
        string[] before = Files;
        string last = before.Length == 1 ? "model.safetensors.tmp" : "model-00002-of-00002.safetensors.tmp";
        string obstacle = Directory.CreateDirectory(Path.Combine(_folder, last)).FullName;

        Assert.ThrowsAny<Exception>(() => PretrainedWeights.Write(_folder, [("a", zeros(1)), ("b", zeros(1))], shardBytes));

        Directory.Delete(obstacle);
        Assert.Equal(before, Files);
        using var weights = PretrainedWeights.Open(_folder);
        var a = zeros(1);
        weights.Read("a", a);
        Assert.Equal(1, a.item<float>());
    }

    [Fact]
    public void What_makes_no_sense_is_refused_before_anything_is_written()
    {
        Assert.Contains("Tensor 'a' stands 2 times", Assert.Throws<ArgumentException>(
            () => PretrainedWeights.Write(_folder, [("a", ones(1)), ("a", ones(1))], 8)).Message);
        Assert.Throws<ArgumentOutOfRangeException>(() => PretrainedWeights.Write(_folder, [("a", ones(1))], 0));
        Assert.Contains("Weights are written as Float32, Float16 or BFloat16", Assert.Throws<ArgumentOutOfRangeException>(
            () => PretrainedWeights.Write(_folder, [("a", ones(1))], 8, ScalarType.Int64)).Message);
        Assert.Empty(Files);
    }

    [Fact]
    public void Writing_leaves_no_tensor_behind()
    {
        var parameter = new TorchSharp.Modules.Parameter(randn(1200, 1000));
        using var view = parameter.t();

        LiveTensors.AssertNoneLeftBy(() => PretrainedWeights.Write(_folder, [("w", view)], 1 << 30, ScalarType.BFloat16));
    }
}
