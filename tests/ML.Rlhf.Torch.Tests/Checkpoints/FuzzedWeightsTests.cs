using System.Buffers.Binary;
using System.Text;
using ML.Rlhf.Torch.Checkpoints;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Checkpoints;

/// <summary>
/// Models that transformers wrote, damaged at random: they are read, or a <see cref="FormatException"/> (or <see cref="IOException"/>, for
/// files that are not there) says why not. Memory stays within what the files have, and no tensor is left behind.
/// </summary>
public sealed class FuzzedWeightsTests : IDisposable
{
    /// <summary>Managed memory that reading may take: the header's text, tokens and names, and a little for every tensor.</summary>
    private const long AllocatedPerByte = 4, AllocatedAlways = 1 << 19;

    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [InlineData("gpt2-sharded")]
    [InlineData("llama-tied")]
    [InlineData("bert")]
    public void Damaged_models_are_read_or_refused(string model) => Fuzz(model, seeds: 0..100);

    /// <summary>About a minute in all.</summary>
    [Theory, Trait("Tier", "Slow")]
    [InlineData("gpt2")]
    [InlineData("gpt2-reward")]
    [InlineData("gpt2-sharded")]
    [InlineData("llama-tied")]
    [InlineData("qwen3")]
    [InlineData("bert")]
    public void Many_damaged_models_are_read_or_refused(string model) => Fuzz(model, seeds: 1000..3500);

    private void Fuzz(string model, Range seeds)
    {
        var whole = Directory.GetFiles(Golden.PathOf(Path.Combine("models", model)), "model*")
            .Order(StringComparer.Ordinal).ToDictionary(f => Path.Combine(_folder, Path.GetFileName(f)), File.ReadAllBytes);
        foreach (var (path, content) in whole)
            File.WriteAllBytes(path, content);
        ReadEverything(); // what is made once per process is not counted
        int refused = 0;

        for (int seed = seeds.Start.Value; seed < seeds.End.Value; seed++)
        {
            var mutator = new Mutator(seed);
            string damaged = whole.Keys.ElementAt(mutator.Next(whole.Count));
            File.WriteAllBytes(damaged, Damage(mutator, damaged, whole[damaged]));
            long tensors = LiveTensors.Count, allocated = GC.GetAllocatedBytesForCurrentThread();
            try
            {
                ReadEverything();
            }
            catch (Exception e) when (e is FormatException or IOException)
            {
                refused++;
            }
            catch (Exception e)
            {
                Assert.Fail($"Seed {seed} ({Path.GetFileName(damaged)}): {e}");
            }
            allocated = GC.GetAllocatedBytesForCurrentThread() - allocated;
            long bytes = new DirectoryInfo(_folder).GetFiles().Sum(f => f.Length);
            Assert.True(allocated <= AllocatedAlways + AllocatedPerByte * bytes, $"Seed {seed}: {allocated} bytes for {bytes}.");
            Assert.True(LiveTensors.Count == tensors, $"Seed {seed}: {LiveTensors.Count - tensors} tensors are left.");
            File.WriteAllBytes(damaged, whole[damaged]);
        }

        // The damage is neither so small that nothing was tested, nor so large that nothing was ever read.
        int runs = seeds.End.Value - seeds.Start.Value;
        Assert.InRange(refused, runs / 2, runs * 99 / 100);
    }

    private static byte[] Damage(Mutator mutator, string path, byte[] content)
    {
        if (path.EndsWith(".json", StringComparison.Ordinal))
            return mutator.Next(4) == 0 ? mutator.Bytes(content) : Encoding.UTF8.GetBytes(mutator.Json(Encoding.UTF8.GetString(content)));
        if (mutator.Next(4) == 0)
            return mutator.Bytes(content);
        int header = (int)BinaryPrimitives.ReadInt64LittleEndian(content);
        byte[] data = content[(8 + header)..];
        return RawSafetensors.File(
            mutator.Json(Encoding.UTF8.GetString(content, 8, header)), mutator.Next(4) == 0 ? mutator.Bytes(data) : data);
    }

    /// <summary>As a model does that believes the file: tensors of the shapes that it declares, which never exceed the file.</summary>
    private void ReadEverything()
    {
        using var scope = NewDisposeScope();
        using var weights = PretrainedWeights.Open(_folder);
        Assert.InRange(weights.Tensors.Values.Sum(t => t.End - t.Start), 0, new DirectoryInfo(_folder).GetFiles().Sum(f => f.Length));
        foreach (var (name, tensor) in weights.Tensors.Where(t => t.Value.End > t.Value.Start)) // 0 × 2⁶² is too much for libtorch
        {
            if (SafetensorsHeader.ScalarTypeOf(tensor.Type) is not null)
                weights.Read(name, empty(tensor.Shape));
            else
                Assert.Throws<FormatException>(() => weights.Read(name, empty(tensor.Shape)));
        }
    }
}
