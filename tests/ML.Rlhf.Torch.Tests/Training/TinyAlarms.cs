using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;

namespace ML.Rlhf.Torch.Tests.Training;

/// <summary>Tiny PPO runs in which something goes wrong, one way or another.</summary>
internal static class TinyAlarms
{
    private static readonly PolicyOptions s_options = new()
    {
        Episodes = 20 * 32, EpisodesPerUpdate = 32, MaxResponseTokens = 6, LearningRate = 5e-3, KlCoefficient = 0.01,
        UnfinishedScore = null,
    };

    /// <summary>Options that watch for one alarm alone.</summary>
    public static AlarmOptions Only(AlarmKind kind, AlarmPolicy policy) => new()
    {
        Policy = AlarmPolicy.Ignore,
        Policies = new Dictionary<AlarmKind, AlarmPolicy> { [kind] = policy },
    };

    /// <summary>A run that earns an alarm.</summary>
    /// <param name="kind">Which.</param>
    /// <param name="alarms">What to do about it.</param>
    /// <param name="onScore">Called with each rollout, before it is scored: the weights are those that sampled it.</param>
    /// <param name="change">Changes the options.</param>
    public static TinyPpo Earning(
        AlarmKind kind, AlarmOptions alarms, Action<TinyPpo>? onScore = null, Func<PolicyOptions, PolicyOptions>? change = null)
    {
        TinyPpo? ppo = null;
        var options = s_options with { Alarms = alarms };
        int update = 0;

        EpisodeScorer Watched(EpisodeScorer scorer) => episodes =>
        {
            onScore?.Invoke(ppo!);
            return scorer(episodes);
        };
        PolicyOptions Changed(PolicyOptions plain) => change?.Invoke(plain) ?? plain;
        double[] Lengths(IReadOnlyList<Episode> episodes) => [.. episodes.Select(e => (double)e.Response.Length)];

        // Each token that was sampled once, of 300, becomes certain.
        TinyPpo Memorising(int tokens) => new(
            Changed(options with
            {
                Episodes = 20, EpisodesPerUpdate = 4, EpochsPerUpdate = 16, ClipRange = 1000, LearningRate = 0.1, KlCoefficient = 0,
                MaxResponseTokens = tokens,
            }),
            policy: TinyGpt.Fresh(architecture: TinyGpt.Architecture with { VocabularySize = 300 }), scorer: Watched(TinyPpo.TreatRate));

        ppo = kind switch
        {
            AlarmKind.HighKl => Memorising(tokens: 16),
            AlarmKind.LowEntropy or AlarmKind.HighRatioMean => Memorising(tokens: 6),
            AlarmKind.HighClipFraction => new TinyPpo(
                options with { LearningRate = 0.3, KlCoefficient = 0, UnfinishedScore = -1 }, policy: TinyGpt.Fresh(),
                scorer: Watched(TinyPpo.TreatRate)),
            AlarmKind.LengthDrift or AlarmKind.FallingEndRate => new TinyPpo(
                options with { LearningRate = 1e-2 }, policy: Terse(), scorer: Watched(Lengths)),
            AlarmKind.FallingGoldScore => new TinyPpo(
                options, policy: TinyGpt.Fresh(), scorer: Watched(TinyPpo.TreatRate),
                goldScorer: episodes => [.. TinyPpo.TreatRate(episodes).Select(score => -score)]),
            AlarmKind.ScoreCollapse => new TinyPpo(options, scorer: Watched(episodes => [.. episodes.Select(_ => 0.25)])),
            AlarmKind.NonFinite => new TinyPpo( // one extreme score, in update 3
                options with { Episodes = 6 * 32 },
                scorer: Watched(episodes => [.. TinyPpo.TreatRate(episodes).Select((score, i) => (i, update) == (0, 2) ? 1e30 : score)]),
                onReport: _ => update++),
            _ => throw new ArgumentOutOfRangeException(nameof(kind), kind, "no run earns it"),
        };
        return ppo;
    }

    /// <summary>A policy that has learned to be brief.</summary>
    private static CausalLanguageModel Terse() => new TinyPpo(
        s_options with { Episodes = 12 * 32, LearningRate = 1e-2 }, policy: TinyGpt.Fresh(),
        scorer: episodes => [.. episodes.Select(e => -(double)e.Response.Length)]).Run().Policy;
}
