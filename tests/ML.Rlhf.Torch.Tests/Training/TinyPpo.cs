using ML.Rlhf.Torch.Generation;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Training;

/// <summary>A PPO run on tiny models, with its networks at hand.</summary>
internal sealed class TinyPpo
{
    public const int EndToken = 17, Treat = 5;

    public TinyPpo(
        PolicyOptions options, int seed = 0, CausalLanguageModel? policy = null, ScalarGpt? value = null, EpisodeScorer? scorer = null,
        Action<TrainingProgress>? onReport = null, EpisodeScorer? goldScorer = null, int? cancelAfter = null, Action? onCheck = null)
    {
        Recorded = new RecordedRun(seed, onReport, cancelAfter, onCheck);
        Policy = policy ?? TinyGpt.Random(seed);
        Reference = FineTuning.Reference(Policy);
        Value = value ?? (options.ValueFunction == ValueFunction.SharedTrunk
            ? new ScalarGpt(Policy, generator: null)
            : new ScalarGpt(Policy.Clone(), new Generator((ulong)seed, CPU)));
        Training = new PpoTraining(Policy, Value, Reference, scorer ?? TreatRate, EndToken, options, Recorded.Run, goldScorer);
    }

    public CausalLanguageModel Policy { get; }

    public CausalLanguageModel Reference { get; }

    public ScalarGpt Value { get; }

    public RecordedRun Recorded { get; }

    public PpoTraining Training { get; }

    public static TokenSequences Prompts { get; } = TinyData.Sequences(rows: 6, length: 3);

    public TinyPpo Run(TokenSequences? pretraining = null)
    {
        Training.Run(Prompts, pretraining);
        return this;
    }

    /// <summary>The part of a response that is one certain token: the simplest reward there is to find.</summary>
    public static double[] TreatRate(IReadOnlyList<Episode> episodes) =>
        [.. episodes.Select(e => e.Response.Count(token => token == Treat) / (double)e.Response.Length)];

    /// <summary>Episodes of ragged prompts and responses, as the policy samples them.</summary>
    public Episode[] Sample(int count, int maxTokens = 8, float temperature = 1)
    {
        var random = new RandomStream(9);
        var prompts = new int[count][];
        var streams = new RandomStream[count];
        for (int i = 0; i < count; i++)
            (prompts[i], streams[i]) = (TinyData.Tokens(ref random, 1 + random.NextInt32(5)), new RandomStream(11, (ulong)i));
        var results = Sampler.Generate(
            Policy, prompts, streams, EndToken, new SamplingOptions { MaxNewTokens = maxTokens, Temperature = temperature },
            withLogProbabilities: true);
        Assert.True(results.Any(r => r.Ended) && results.Any(r => !r.Ended),
            "the seed should give responses that end and responses that do not");
        return [.. results.Select((r, i) => new Episode(prompts[i], r.Tokens, r.LogProbabilities, r.Ended))];
    }
}
