using System.Text;
using ML.Rlhf.Torch.Checkpoints;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Checkpoints;

/// <summary>
/// At the size of GPT-2 (124 million parameters) memory holds the weights once, whether they are read or written. The rest of the test
/// process moves the numbers by some tens of megabytes; VerifyImportTests measures a process of its own.
/// </summary>
[Trait("Tier", "Slow")]
public sealed class PretrainedMemoryTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [InlineData("F32", 4)]
    [InlineData("BF16", 2)]
    public void Reading_takes_a_fifth_of_the_weights_at_most_besides_the_weights(string type, int bytesOfANumber)
    {
        using var scope = NewDisposeScope();
        long numbers = WriteRandomGpt2(type, bytesOfANumber);
        Assert.InRange(numbers, 124_000_000, 125_000_000);
        using var weights = PretrainedWeights.Open(_folder);
        // All of the targets' memory is in use before; as in Conv1D layers, matrices arrive transposed.
        var targets = weights.Tensors.Values.Select(t => (t.Name, Target: ones(t.Shape.Reverse().ToArray()).t())).ToArray();

        long growth = ResidentGrowth(() => weights.ReadAll(targets, "transformer.", _ => false));

        Assert.InRange(growth, long.MinValue, 4 * numbers / 5); // less than the largest tensor: it is not held whole either
    }

    [Fact]
    public void Writing_takes_a_fifth_of_the_weights_at_most_besides_the_weights()
    {
        using var scope = NewDisposeScope();
        var tensors = Gpt2().Select(t => (t.Name, Tensor: rand(t.Shape))).ToArray();
        long bytes = tensors.Sum(t => t.Tensor.numel() * 4);

        long growth = ResidentGrowth(() => PretrainedWeights.Write(
            _folder, tensors.Select(t => (t.Name, t.Tensor.dim() == 2 ? t.Tensor.t() : t.Tensor)), 200_000_000, ScalarType.BFloat16));

        Assert.InRange(growth, long.MinValue, bytes / 5);
    }

    private static IEnumerable<(string Name, long[] Shape)> Gpt2()
    {
        const long width = 768;
        yield return ("wte.weight", [50257, width]);
        yield return ("wpe.weight", [1024, width]);
        foreach (int block in Enumerable.Range(0, 12))
            foreach (var (name, shape) in new (string, long[])[]
            {
                ("ln_1.weight", [width]), ("ln_1.bias", [width]),
                ("attn.c_attn.weight", [width, 3 * width]), ("attn.c_attn.bias", [3 * width]),
                ("attn.c_proj.weight", [width, width]), ("attn.c_proj.bias", [width]), ("ln_2.weight", [width]), ("ln_2.bias", [width]),
                ("mlp.c_fc.weight", [width, 4 * width]), ("mlp.c_fc.bias", [4 * width]), ("mlp.c_proj.weight", [4 * width, width]),
                ("mlp.c_proj.bias", [width]),
            })
                yield return ($"h.{block}.{name}", shape);
        yield return ("ln_f.weight", [width]);
        yield return ("ln_f.bias", [width]);
    }

    private long WriteRandomGpt2(string type, int bytesOfANumber)
    {
        long numbers = 0;
        var entries = new List<string>();
        foreach (var (name, shape) in Gpt2())
        {
            long start = numbers * bytesOfANumber;
            numbers += shape.Aggregate(1L, (a, b) => a * b);
            long end = numbers * bytesOfANumber;
            entries.Add($$"""
                "{{name}}":{"dtype":"{{type}}","shape":[{{string.Join(",", shape)}}],"data_offsets":[{{start}},{{end}}]}
                """);
        }
        byte[] header = Encoding.UTF8.GetBytes("{" + string.Join(",", entries) + "}");
        using var file = new BinaryWriter(File.Create(Path.Combine(_folder, "model.safetensors")));
        file.Write((long)header.Length);
        file.Write(header);
        var random = new Random(1);
        var chunk = new byte[1 << 20];
        for (long left = numbers * bytesOfANumber; left > 0; left -= chunk.Length)
        {
            random.NextBytes(chunk);
            file.Write(chunk, 0, (int)Math.Min(left, chunk.Length));
        }
        return numbers;
    }

    /// <summary>How far the resident memory of the process rises above what it was, while the action runs.</summary>
    private static long ResidentGrowth(Action action)
    {
        GC.Collect();
        long before = Environment.WorkingSet, peak = before;
        using var end = new CancellationTokenSource();
        var watch = new Thread(() =>
        {
            do
                peak = Math.Max(peak, Environment.WorkingSet);
            while (!end.Token.WaitHandle.WaitOne(2));
        });
        watch.Start();
        action();
        end.Cancel();
        watch.Join();
        return Math.Max(peak, Environment.WorkingSet) - before;
    }
}
