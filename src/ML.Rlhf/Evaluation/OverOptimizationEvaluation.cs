using Microsoft.ML;
using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Training;

namespace ML.Rlhf;

/// <summary>Measures the gold score of policies that were optimised for a proxy, and how far they went for it.</summary>
internal static class OverOptimizationEvaluation
{
    /// <summary>Answers that are held in memory at once.</summary>
    private const int AnswersAtOnce = 4096;

    /// <summary>A trained policy, on its own answers.</summary>
    public static OverOptimizationPoint Policy(
        MLContext ml, TextGenerationTransformer policy, TextGenerationTransformer reference, Reward proxy, Reward gold, IDataView prompts,
        string promptColumn)
    {
        ArgumentNullException.ThrowIfNull(policy);
        ArgumentNullException.ThrowIfNull(reference);
        ArgumentNullException.ThrowIfNull(proxy);
        ArgumentNullException.ThrowIfNull(gold);
        ArgumentNullException.ThrowIfNull(prompts);
        var host = Evaluation.Register(ml);
        TextColumns.RequireText(host, prompts.Schema, "prompt", promptColumn);
        Evaluation.RequireDivergence(host, policy, reference);
        var (scoreProxy, scoreGold) = (proxy.CreateScorer(policy), gold.CreateScorer(policy));
        using var channel = host.Start("Evaluating over-optimization");
        string[] texts = Tokenization.PromptTexts(prompts, promptColumn, [policy], channel.WarningLine, Cancellation.Check(host));
        var answers = policy.SampleEpisodes(texts, 1);
        double kl = Evaluation.Divergence(policy, reference, answers);
        return Point(
            n: 1, kl, EpisodeScores.Require(scoreProxy(answers), answers.Length),
            EpisodeScores.Require(scoreGold(answers), answers.Length));
    }

    /// <summary>The best of n answers, for several n, from one set of answers.</summary>
    public static IReadOnlyList<OverOptimizationPoint> BestOfN(
        MLContext ml, TextGenerationTransformer policy, Reward proxy, Reward gold, IDataView prompts, int samples, IReadOnlyList<int>? n,
        string promptColumn)
    {
        ArgumentNullException.ThrowIfNull(policy);
        ArgumentNullException.ThrowIfNull(proxy);
        ArgumentNullException.ThrowIfNull(gold);
        ArgumentNullException.ThrowIfNull(prompts);
        ArgumentOutOfRangeException.ThrowIfLessThan(samples, 1);
        n ??= [.. Enumerable.Range(0, 31).Select(power => 1 << power).TakeWhile(value => value <= samples)];
        var host = Evaluation.Register(ml);
        foreach (int value in n)
        {
            if (value < 1 || value > samples)
                throw host.Process(new ArgumentException(
                    $"A value of n is {value}, but must be at least 1 and at most the {samples} samples of a prompt. Raise the samples, " +
                    "or leave it out.", nameof(n)));
        }
        TextColumns.RequireText(host, prompts.Schema, "prompt", promptColumn);
        BestOfNTransformer.RequireVariety(host, policy, samples);
        var (scoreProxy, scoreGold) = (proxy.CreateScorer(policy), gold.CreateScorer(policy));
        using var channel = host.Start("Evaluating best-of-n");
        string[] texts = Tokenization.PromptTexts(prompts, promptColumn, [policy], channel.WarningLine, Cancellation.Check(host));

        // Per n, what the best of n answers to each prompt is worth on average.
        var bestProxy = n.Select(_ => new List<double>(texts.Length)).ToArray();
        var bestGold = n.Select(_ => new List<double>(texts.Length)).ToArray();
        foreach (string[] some in texts.Chunk(Math.Max(1, AnswersAtOnce / samples)))
        {
            var answers = policy.SampleEpisodes(some, samples);
            double[] byProxy = EpisodeScores.Require(scoreProxy(answers), answers.Length);
            double[] byGold = EpisodeScores.Require(scoreGold(answers), answers.Length);
            for (int start = 0; start < answers.Length; start += samples)
            {
                double[] proxies = byProxy[start..(start + samples)], golds = byGold[start..(start + samples)];
                for (int i = 0; i < n.Count; i++)
                {
                    bestProxy[i].Add(Torch.Functional.BestOfN.Expectation(proxies, proxies, n[i]));
                    bestGold[i].Add(Torch.Functional.BestOfN.Expectation(proxies, golds, n[i]));
                }
            }
        }
        return [.. n.Select((value, i) => Point(value, Torch.Functional.BestOfN.KlBound(value), bestProxy[i], bestGold[i]))];
    }

    private static OverOptimizationPoint Point(int n, double kl, IReadOnlyList<double> proxy, IReadOnlyList<double> gold) => new()
    {
        N = n,
        Kl = kl,
        ProxyScore = proxy.Average(),
        ProxyStandardError = StandardError(proxy),
        GoldScore = gold.Average(),
        GoldStandardError = StandardError(gold),
    };

    /// <summary>s/√m of m prompts' values.</summary>
    private static double StandardError(IReadOnlyList<double> values)
    {
        double mean = values.Average();
        return Math.Sqrt(values.Sum(value => (value - mean) * (value - mean)) / (values.Count - 1) / values.Count);
    }
}
