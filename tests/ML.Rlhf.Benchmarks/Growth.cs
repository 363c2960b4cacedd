using System.Globalization;
using ML.Rlhf.Benchmarks.Measuring;
using ML.Rlhf.Benchmarks.Works;

namespace ML.Rlhf.Benchmarks;

/// <summary>What training and decoding cost at four sizes each, and training's memory beside its formula.</summary>
internal static class Growth
{
    private const int Rounds = 2;

    public static void Run()
    {
        Console.WriteLine($"{Machine.Description}, {Child.Threads} threads, {DateTime.UtcNow:yyyy-MM-dd}");

        Console.WriteLine("\n| training, tokens per step | ms per step | µs per token |\n|---:|---:|---:|");
        foreach (var work in AllWorks.GrowingBatches)
        {
            int tokens = work.Batch * work.Model.ContextLength;
            double rate = Measure(work).PerSecond;
            Print($"| {tokens:#,0} | {tokens / rate * 1e3:F0} | {1e6 / rate:F0} |");
        }

        Console.WriteLine("\n| decoding, new tokens | ms | ms per step |\n|---:|---:|---:|");
        foreach (var work in AllWorks.GrowingCompletions)
        {
            double seconds = work.Batch * work.NewTokens / Measure(work).PerSecond;
            Print($"| {work.NewTokens} | {seconds * 1e3:F0} | {seconds * 1e3 / work.NewTokens:F2} |");
        }

        Console.WriteLine("\n| memory of training | parameters, millions | MB | formula | ratio |\n|---|---:|---:|---:|---:|");
        foreach (var work in AllWorks.GrowingModels)
        {
            double measured = Measure(work).PeakMegabytes, formula = TrainingMegabytes(work);
            string size = $"{work.Model.Layers} × {work.Model.Width}, {work.Batch * work.Model.ContextLength} tokens{(work.Checkpoints ? ", checkpoints" : "")}";
            Print($"| {size} | {Parameters(work.Model) / 1e6:F1} | {measured:#,0} | {formula:#,0} | {measured / formula:F2} |");
        }
    }

    /// <summary>
    /// libtorch and .NET themselves; weights, gradients and the two moments of Adam, 4 bytes each; and in bfloat16, per token of a pass and
    /// number of its width, 24 bytes per block and 70 for what a block, the head and its loss need besides, and the gradients of 2,048 logits.
    /// With checkpoints 20 of the 24 bytes are those of one block.
    /// </summary>
    private static double TrainingMegabytes(TrainingWork work)
    {
        const double Program = 160e6;
        var a = work.Model;
        double blocks = work.Checkpoints ? (4.0 * a.Layers) + 20 : 24.0 * a.Layers;
        double activations = work.Batch * a.ContextLength * ((a.Width * (blocks + 70)) + (2.0 * Math.Min(a.VocabularySize, 2048)));
        return (Program + 16.0 * Parameters(a) + activations) / 1048576;
    }

    private static double Parameters(GptArchitecture a) =>
        a.BlockWeights() + a.HeadWeights() + ((double)a.ContextLength * a.Width) + (a.Layers * (9.0 * a.Width + a.HiddenWidth)) + (2.0 * a.Width);

    /// <summary>The fastest of some runs, each in a process of its own.</summary>
    private static Measurement Measure(Work work) => Enumerable.Range(0, Rounds)
        .Select(_ => Measurement.Parse("ours", Child.RunSelf("ours", work.Name))).MaxBy(m => m.PerSecond)!;

    private static void Print(FormattableString line) => Console.WriteLine(line.ToString(CultureInfo.InvariantCulture));
}
