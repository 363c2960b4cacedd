using Microsoft.ML;
using ML.Rlhf.Torch;
using ML.Rlhf.Torch.Generation;
using TorchSharp;

namespace ML.Rlhf.Tests.Memory;

/// <summary>
/// What .NET allocates in hot loops: TorchSharp's handles, a few hundred bytes for each operation. It depends neither on the size of the
/// weights nor, but for the token itself, on how many tokens are drawn or learned at once.
/// </summary>
public sealed class AllocationTests
{
    [Fact]
    public void Drawing_a_token_allocates_nothing_for_a_parameter_and_a_few_bytes_for_each_row()
    {
        double narrow = BytesPerDraw(width: 16, rows: 1), wide = BytesPerDraw(width: 64, rows: 1), many = BytesPerDraw(width: 16, rows: 64);
        Report($"allocations draw={narrow:0}B more-width={wide - narrow:+0;-0;+0}B more-rows={(many - narrow) / 63:+0.0;-0.0;+0.0}B/token");

        Assert.InRange(narrow, 1000, 10_000);
        Assert.InRange(wide - narrow, -100, 100);
        Assert.InRange((many - narrow) / 63, 0, 48); // its number, its randomness, its place in the text
    }

    [Theory]
    [InlineData(Precision.Float32)]
    [InlineData(Precision.Auto)] // kernels, where there are some for this processor
    public void A_training_step_allocates_nothing_for_a_parameter_and_a_few_bytes_for_each_token(Precision precision)
    {
        double narrow = BytesPerStep(precision, width: 32, rows: 2), wide = BytesPerStep(precision, width: 128, rows: 2),
            many = BytesPerStep(precision, width: 32, rows: 34);
        double perToken = (many - narrow) / (32 * Context);
        Report($"allocations step={narrow:0}B more-width={wide - narrow:+0;-0;+0}B more-rows={perToken:+0.0;-0.0;+0.0}B/token");

        Assert.InRange(narrow, 1000, 40_000);
        Assert.InRange(wide - narrow, -100, 100);
        Assert.InRange(perToken, 0, 40); // its number, and that of the token that it should predict
    }

    private const int Context = 32;

    private static double BytesPerDraw(int width, int rows)
    {
        using var generator = new torch.Generator(1);
        using var model = new ML.Rlhf.Torch.Modules.Gpt(
            GptArchitecture.Nano with { Layers = 1, Heads = 2, Width = width, ContextLength = 256, VocabularySize = 20 }, generator);
        model.eval();
        int[][] prompts = [.. Enumerable.Repeat(new[] { 1, 2 }, rows)];
        return (Bytes(tokens: 140) - Bytes(tokens: 40)) / 100.0;

        long Bytes(int tokens)
        {
            RandomStream[] streams = [.. Enumerable.Range(0, rows).Select(row => new RandomStream(1, (ulong)row))];
            const int never = 1000;
            Sampler.Generate(model, prompts, streams, never, new SamplingOptions { MaxNewTokens = tokens });
            long before = GC.GetAllocatedBytesForCurrentThread();
            Sampler.Generate(model, prompts, streams, never, new SamplingOptions { MaxNewTokens = tokens });
            return GC.GetAllocatedBytesForCurrentThread() - before;
        }
    }

    private static double BytesPerStep(Precision precision, int width, int rows)
    {
        var ml = new MLContext(seed: 1);
        var bytes = new List<long>();
        long before = 0;
        ml.Rlhf().Trainers.Gpt(new GptOptions
        {
            Architecture = GptArchitecture.Nano with { Layers = 1, Heads = 2, Width = width, ContextLength = Context },
            Tokenizer = Tiny.Letters,
            Steps = 40,
            BatchSize = rows,
            Precision = precision,
            Progress = new ProgressRecords(_ =>
            {
                bytes.Add(GC.GetAllocatedBytesForCurrentThread() - before);
                before = GC.GetAllocatedBytesForCurrentThread();
            }),
        }).Fit(ml.Data.LoadFromEnumerable(Tiny.Documents)).Dispose();
        return bytes.Order().ElementAt(bytes.Count / 2);
    }

    private static void Report(FormattableString line) =>
        TestContext.Current.TestOutputHelper!.WriteLine(FormattableString.Invariant(line));
}
