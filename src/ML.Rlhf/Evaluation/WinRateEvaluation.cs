using Microsoft.ML;
using Microsoft.ML.Runtime;
using ML.Rlhf.Torch.Training;

namespace ML.Rlhf;

/// <summary>Compares the answers of two models to the same prompts.</summary>
internal static class WinRateEvaluation
{
    /// <summary>By the scores of the answers, each judged alone.</summary>
    public static WinRateMetrics ByScores(
        MLContext ml, TextGenerationTransformer candidate, TextGenerationTransformer baseline, IDataView prompts, Reward judge,
        string promptColumn)
    {
        ArgumentNullException.ThrowIfNull(judge);
        var host = Require(ml, candidate, baseline, prompts, promptColumn);
        var (scoreCandidate, scoreBaseline) = (judge.CreateScorer(candidate), judge.CreateScorer(baseline));
        var answers = Answer(host, candidate, baseline, prompts, promptColumn);
        double[] ours = EpisodeScores.Require(scoreCandidate(answers.Candidate), answers.Prompts.Length);
        double[] theirs = EpisodeScores.Require(scoreBaseline(answers.Baseline), answers.Prompts.Length);

        double[] wins = [.. answers.Prompts.Select((_, i) => answers.Equal(i) ? 0.5 : Win(ours[i] - theirs[i]))];
        return Summarize(wins) with { MeanCandidateScore = ours.Average(), MeanBaselineScore = theirs.Average() };
    }

    /// <summary>By a judge who reads both answers, in both orders.</summary>
    public static WinRateMetrics ByPairs(
        MLContext ml, TextGenerationTransformer candidate, TextGenerationTransformer baseline, IDataView prompts,
        Func<string, string, string, double> judge, string promptColumn)
    {
        ArgumentNullException.ThrowIfNull(judge);
        var host = Require(ml, candidate, baseline, prompts, promptColumn);
        var answers = Answer(host, candidate, baseline, prompts, promptColumn);
        var (ours, theirs) = (answers.CandidateTexts, answers.BaselineTexts);
        double[] oursFirst = [.. answers.Prompts.Select((prompt, i) => Ask(prompt, ours[i], theirs[i]))];
        double[] theirsFirst = [.. answers.Prompts.Select((prompt, i) => Ask(prompt, theirs[i], ours[i]))];

        double[] wins = [.. oursFirst.Zip(theirsFirst, (first, second) => (1 + (first - second)) / 2)];
        return Summarize(wins) with
        {
            PositionBias = oursFirst.Concat(theirsFirst).Average() - 0.5,
            OrderDisagreement = oursFirst.Zip(theirsFirst, Disagree).Average(),
        };

        // Both say how probably the first answer is better, but another one is the first.
        static double Disagree(double oneOrder, double other) => oneOrder > 0.5 && other > 0.5 || oneOrder < 0.5 && other < 0.5 ? 1 : 0;

        double Ask(string prompt, string first, string second)
        {
            double probability = judge(prompt, first, second);
            return probability is >= 0 and <= 1 ? probability : throw host.Process(new InvalidOperationException(
                $"The judge gave {probability} for the answers to '{Texts.Shorten(prompt)}', but must give the probability that the " +
                "first is better, from 0 to 1. Scale or limit what it returns; 0.5 says that it cannot tell."));
        }
    }

    /// <summary>Mean, ties and the interval that <see cref="WinRateMetrics.LowerBound"/> explains.</summary>
    /// <param name="wins">What each prompt gave the candidate, in [0, 1]; at least one.</param>
    internal static WinRateMetrics Summarize(double[] wins)
    {
        const double Z = 1.959963984540054; // 95 % of a normal distribution lie within ±Z deviations
        double[] padded = [.. wins, 1, 1, 0, 0];
        double center = padded.Average();
        double margin = Z * Math.Sqrt(padded.Average(win => (win - center) * (win - center)) / padded.Length);
        return new WinRateMetrics
        {
            PromptCount = wins.Length,
            WinRate = wins.Average(),
            LowerBound = Math.Max(0, center - margin),
            UpperBound = Math.Min(1, center + margin),
            TieCount = wins.Count(win => win == 0.5),
        };
    }

    private static double Win(double difference) => difference > 0 ? 1 : difference == 0 ? 0.5 : 0;

    private static IHost Require(
        MLContext ml, TextGenerationTransformer candidate, TextGenerationTransformer baseline, IDataView prompts, string promptColumn)
    {
        ArgumentNullException.ThrowIfNull(candidate);
        ArgumentNullException.ThrowIfNull(baseline);
        ArgumentNullException.ThrowIfNull(prompts);
        var host = Evaluation.Register(ml);
        TextColumns.RequireText(host, prompts.Schema, "prompt", promptColumn);
        return host;
    }

    private static Answers Answer(
        IHost host, TextGenerationTransformer candidate, TextGenerationTransformer baseline, IDataView prompts, string promptColumn)
    {
        using var channel = host.Start("Comparing two models");
        string[] texts = Tokenization.PromptTexts(
            prompts, promptColumn, [candidate, baseline], channel.WarningLine, Cancellation.Check(host));
        Episode[] ours = candidate.SampleEpisodes(texts, 1), theirs = baseline.SampleEpisodes(texts, 1);
        return new Answers(texts, ours, Decode(candidate, ours), theirs, Decode(baseline, theirs));
    }

    private static string[] Decode(TextGenerationTransformer model, Episode[] episodes) =>
        Array.ConvertAll(episodes, episode => model.Tokenizer.Decode(episode.Response));

    /// <summary>What both models answered to the same prompts.</summary>
    private sealed record Answers(
        string[] Prompts, Episode[] Candidate, string[] CandidateTexts, Episode[] Baseline, string[] BaselineTexts)
    {
        /// <summary>Equal answers tie, whatever their places in two batches did to the last bit of their scores.</summary>
        public bool Equal(int i) => CandidateTexts[i] == BaselineTexts[i] && Candidate[i].Ended == Baseline[i].Ended;
    }
}
