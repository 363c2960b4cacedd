using ML.Rlhf.Torch.Training;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests;

// The pack's options records are abstract: the ML.NET side adds its own to them. These add nothing.
internal sealed record PlainOptions : OptimizationOptions;

internal sealed record PretrainingOptions : GptHyperparameters;

internal sealed record MaskingOptions : MaskedLanguageModelHyperparameters;

internal sealed record SftOptions : SupervisedFineTuningHyperparameters;

internal sealed record RewardOptions : RewardModelHyperparameters;

internal sealed record PolicyOptions : PpoHyperparameters;

internal sealed record GrpoTestOptions : GrpoHyperparameters;

internal sealed record RlooTestOptions : RlooHyperparameters;

internal sealed record PairOptions : DpoHyperparameters;

internal sealed record FeedbackOptions : KtoHyperparameters;

internal sealed record OddsRatioOptions : OrpoHyperparameters;

internal sealed record SequenceOptions : EncoderDecoderHyperparameters;

/// <summary>A training run on the CPU that remembers its reports.</summary>
internal sealed class RecordedRun
{
    public RecordedRun(
        int seed = 0, Action<TrainingProgress>? onReport = null, int? cancelAfter = null, Action? onCheck = null) => Run = new TrainingRun(
        "Test",
        CPU,
        seed,
        progress =>
        {
            Reports.Add(progress);
            onReport?.Invoke(progress);
        },
        log: _ => { },
        warn: message => Warnings.Add(message),
        checkCanceled: () =>
        {
            onCheck?.Invoke();
            if (Reports.Count > 0 && Reports[^1].Step >= cancelAfter)
                throw new OperationCanceledException();
        });

    public TrainingRun Run { get; }

    public List<TrainingProgress> Reports { get; } = [];

    public List<string> Warnings { get; } = [];

    /// <summary>What a run of PPO reported.</summary>
    public IEnumerable<PpoProgress> Updates => Reports.Cast<PpoProgress>();
}

/// <summary>Small data sets of random tokens.</summary>
internal static class TinyData
{
    /// <summary>Rows of a prompt and a completion of random lengths and tokens.</summary>
    public static CompletionData Completions(int rows, int seed = 0, int promptUpTo = 5, int completionUpTo = 8)
    {
        var random = new RandomStream((ulong)seed, key: 100);
        var sequences = new TokenSequences();
        var prompts = new int[rows];
        for (int row = 0; row < rows; row++)
        {
            prompts[row] = 1 + random.NextInt32(promptUpTo);
            sequences.Add(Tokens(ref random, prompts[row] + 1 + random.NextInt32(completionUpTo)));
        }
        return new CompletionData(sequences, prompts);
    }

    /// <summary>Rows of which tokens here and there are learned, but not those before the prompts' ends.</summary>
    public static CompletionData Conversations(int rows)
    {
        var data = Completions(rows, promptUpTo: 3, completionUpTo: 12);
        var random = new RandomStream(5);
        var learned = Enumerable.Range(0, rows).Select(row => new bool[data.Sequences.Length(row)]).ToArray();
        foreach (var (row, tokens) in learned.Index())
        {
            for (int t = 0; t < tokens.Length; t++)
                tokens[t] = t == data.PromptLengths[row] || random.NextInt32(2) == 0;
        }
        return data with { Learned = learned };
    }

    /// <summary>Prompts with <paramref name="answers"/> answers each, from the best to the worst.</summary>
    public static RankingData Rankings(int rows, int seed = 0, int answers = 2) => Ranked(
        Completions(rows * answers, seed + 1000), [.. Enumerable.Range(0, rows).Select(_ => Enumerable.Range(0, answers).ToArray())]);

    /// <summary>Prompts with 2 to 5 answers each, ties among them, and weights and margins of their own.</summary>
    public static RankingData RaggedRankings(int rows, int seed = 0)
    {
        var random = new RandomStream((ulong)seed, key: 102);
        var ranks = new int[rows][];
        for (int row = 0; row < rows; row++)
            ranks[row] = [1, 0, .. Enumerable.Range(0, row % 4).Select(_ => random.NextInt32(3))];
        return Ranked(Completions(ranks.Sum(r => r.Length), seed + 1000), ranks) with
        {
            Weights = [.. ranks.Select((_, row) => 0.5f + row % 3)],
            Margins = [.. ranks.Select((_, row) => 0.1f * (row % 5))],
        };
    }

    /// <summary>Answers that stand one prompt after another, ranked.</summary>
    public static RankingData Ranked(CompletionData answers, int[][] ranks)
    {
        int[] starts = [0, .. ranks.Select((_, row) => ranks.Take(row + 1).Sum(r => r.Length))];
        double[] all = [.. ranks.SelectMany(r => r).Select(rank => (double)rank)];
        return new RankingData(answers, starts, all, Weights: [.. ranks.Select(_ => 1f)], Margins: new float[ranks.Length]);
    }

    public static PreferenceData Preferences(int rows, int seed = 0) => new(Completions(rows, seed + 1000), Completions(rows, seed + 2000));

    public static FeedbackData Feedback(int rows, int seed = 0) =>
        new(Completions(rows, seed + 3000), [.. Enumerable.Range(0, rows).Select(row => row % 3 == 0)]);

    /// <summary>Prompts with completions of other lengths, all random, each with the end token 18.</summary>
    public static SequencePairs Pairs(int rows, int seed = 0)
    {
        const int End = 18;
        var random = new RandomStream((ulong)seed, key: 103);
        TokenSequences sources = new(), targets = new();
        for (int row = 0; row < rows; row++)
        {
            sources.Add([.. Tokens(ref random, random.NextInt32(8)), End]);
            targets.Add([.. Tokens(ref random, random.NextInt32(6)), End]);
        }
        return new SequencePairs(sources, targets, End);
    }

    public static TokenSequences Sequences(int rows, int length, int seed = 0)
    {
        var random = new RandomStream((ulong)seed, key: 101);
        var sequences = new TokenSequences();
        for (int row = 0; row < rows; row++)
            sequences.Add(Tokens(ref random, length));
        return sequences;
    }

    public static int[] Tokens(ref RandomStream random, int count)
    {
        var tokens = new int[count];
        for (int i = 0; i < count; i++)
            tokens[i] = random.NextInt32(TestSupport.TinyGpt.Architecture.VocabularySize);
        return tokens;
    }
}
