using System.Diagnostics;
using ML.Rlhf.Benchmarks.Measuring;
using ML.Rlhf.Torch;
using ML.Rlhf.Torch.Generation;
using ML.Rlhf.Torch.Modules;

namespace ML.Rlhf.Benchmarks.Works;

/// <summary>
/// Sampling with a key-value cache, against transformers' <c>generate</c>. A completion has as many tokens as it
/// may, whatever is drawn.
/// </summary>
/// <param name="Batch">Prompts at once.</param>
internal sealed record GenerationWork(string Name, GptArchitecture Model, int Batch) : Work(Name, Model)
{
    private const int Prompt = 32;

    /// <summary>Tokens of a completion.</summary>
    public int NewTokens { get; init; } = 64;

    /// <summary>Whether the peer's weights are bf16.</summary>
    public bool BFloat16 { get; init; }

    /// <summary>What a weight takes that is read for each token.</summary>
    private const int BytesPerWeight = sizeof(ushort);

    public override Measurement RunOurs()
    {
        using var model = RandomData.Model(Model);
        model.eval();
        int[][] prompts = RandomData.Rows(Batch, Prompt, Model.VocabularySize);
        for (int i = 0; i < Warmup; i++)
            Seconds(model, prompts, NewTokens / 2);
        double seconds = Spread.Of([.. Enumerable.Range(0, Steps).Select(_ => Seconds(model, prompts, NewTokens))]).Median;
        return new Measurement("tokens", Batch * NewTokens / seconds, Memory.PeakMegabytes());
    }

    private static double Seconds(CausalLanguageModel model, int[][] prompts, int newTokens)
    {
        RandomStream[] streams = [.. prompts.Select((_, i) => new RandomStream(1, key: (ulong)i))];
        long start = Stopwatch.GetTimestamp();
        var completions = Sampler.Generate(
            model, prompts, streams, EndToken, new SamplingOptions { MaxNewTokens = newTokens, Precision = Precision.Auto },
            minimumTokens: newTokens);
        double seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
        return completions.All(c => c.Tokens.Length == newTokens) ? seconds
            : throw new InvalidOperationException($"A completion has not {newTokens} tokens.");
    }

    public override PeerRun Peer => new(
        "generate.py",
        [.. PeerModel, "--batch", $"{Batch}", "--prompt", $"{Prompt}", "--tokens", $"{NewTokens}", "--runs", $"{Steps}",
            .. BFloat16 ? ["--bf16"] : Array.Empty<string>()]);

    /// <summary>Each step reads all weights once, and does the products of each row.</summary>
    public override double LimitSeconds(MachineLimit limit)
    {
        double all = Model.Trunk(Prompt + NewTokens) - Model.Trunk(Prompt) + Model.Head(NewTokens);
        double weights = Model.BlockWeights() + Model.HeadWeights();
        return limit.Seconds(Batch * all / NewTokens, weights * BytesPerWeight) / Batch;
    }
}
