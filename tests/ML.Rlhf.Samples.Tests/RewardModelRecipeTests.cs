using Microsoft.ML;

namespace ML.Rlhf.Samples.Tests;

/// <summary>
/// Reward models on labels whose truth is known: a gold reward counts a few words, and "people" prefer answers by the Bradley–Terry model,
/// with probability σ(Δgold), or rank four of them by its extension to rankings, the Plackett–Luce model.
/// </summary>
[Trait("Tier", "Slow")]
public sealed class RewardModelRecipeTests(ITestOutputHelper output)
{
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void Pairs_reach_97_percent_of_the_accuracy_that_the_noise_of_the_labels_allows(int seed)
    {
        var lab = new GoldLab(seed);

        using var model = lab.Train(lab.Pairs(8_000), epochs: 1);

        var (metrics, gold, bayes) = lab.Measure(model);
        output.WriteLine(FormattableString.Invariant(
            $"seed={seed} accuracy={metrics.Accuracy:F3} bayes={bayes:F3} gold={gold:F3} ") + FormattableString.Invariant(
            $"calibration-error={metrics.ExpectedCalibrationError:F3} length-baseline={metrics.LengthBaselineAccuracy:F3}"));
        Assert.InRange(metrics.Accuracy / bayes, 0.97, 1.03);
        Assert.InRange(metrics.Accuracy / gold, 0.97, 1.03); // the gold reward itself, on the very same labels
        Assert.InRange(metrics.ExpectedCalibrationError, 0, 0.06);
        Assert.InRange(metrics.LengthBaselineAccuracy, 0.5, 0.55); // there is nothing to learn from length
    }

    /// <summary>
    /// 250 prompts with four ranked answers against twice as many prompts with pairs: the same answers, read by the labelers as often, and
    /// the same number of steps.
    /// </summary>
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void Rankings_of_four_need_less_than_half_the_prompts_of_pairs(int seed)
    {
        const int Prompts = 250, Epochs = 36;
        var lab = new GoldLab(seed);
        double Accuracy(RewardTransformer model)
        {
            using (model)
                return lab.Measure(model).Metrics.Accuracy;
        }

        double four = Accuracy(lab.Train(lab.Rankings(Prompts), Epochs));
        double[] pairs = [.. new[] { 1, 2, 3 }.Select(times => Accuracy(lab.Train(lab.Pairs(times * Prompts), Epochs / times)))];

        output.WriteLine(FormattableString.Invariant(
            $"seed={seed} prompts={Prompts} K4={four:F3} pairs={pairs[0]:F3} pairs-of-2x={pairs[1]:F3} pairs-of-3x={pairs[2]:F3}"));
        Assert.True(four > pairs[1], $"{four:F3} with rankings of four, {pairs[1]:F3} with pairs of twice as many prompts");
    }
}

/// <summary>Random answers of eight words, their gold reward, and what people say of them. A seed gives all of it again.</summary>
internal sealed class GoldLab
{
    private const int AnswerLength = 8;

    /// <summary>What each word is worth.</summary>
    private static readonly Dictionary<string, double> s_worth = new()
    {
        ["superb"] = 1.5, ["good"] = 1, ["kind"] = 0.7, ["clear"] = 0.5, ["vague"] = -0.5, ["rude"] = -0.7, ["bad"] = -1, ["awful"] = -1.5,
        ["one"] = 0, ["two"] = 0, ["red"] = 0, ["blue"] = 0, ["sun"] = 0, ["moon"] = 0, ["tree"] = 0, ["stone"] = 0,
        ["walk"] = 0, ["sing"] = 0, ["near"] = 0, ["far"] = 0, ["and"] = 0, ["or"] = 0, ["the"] = 0, ["a"] = 0,
    };

    private static readonly string[] s_words = [.. s_worth.Keys];
    private static readonly string[] s_prompts = ["Say something. ", "Tell me more. ", "And then? ", "Why? "];

    private readonly MLContext _ml;
    private readonly Random _random;
    private readonly TextGenerationTransformer _model;
    private readonly Preference[] _held;

    public GoldLab(int seed)
    {
        _ml = new MLContext(seed);
        _random = new Random(seed);
        _held = [.. Enumerable.Range(0, 4_000).Select(_ => Pair())];
        var texts = Enumerable.Range(0, 2_000).Select(_ => new Document { Text = $"{Prompt()}{Answer()}" }).ToArray();
        _model = _ml.Rlhf().Trainers.Gpt(new GptOptions
        {
            Architecture = new GptArchitecture { Layers = 1, Heads = 2, Width = 32, ContextLength = 32, VocabularySize = 400 },
            Steps = 200,
            BatchSize = 16,
        }).Fit(_ml.Data.LoadFromEnumerable(texts));
    }

    public RewardTransformer Train<T>(T[] rows, int epochs) where T : class =>
        _ml.Rlhf().Trainers.RewardModel(_model, new RewardModelOptions
        {
            Epochs = epochs,
            LearningRate = 1e-3,
            AnswersColumnName = typeof(T) == typeof(Ranking) ? "Answers" : null,
            RanksColumnName = typeof(T) == typeof(Ranking) ? "Ranks" : null,
        }).Fit(_ml.Data.LoadFromEnumerable(rows));

    /// <summary>
    /// Metrics on 4,000 held-out pairs; beside them the accuracy of the gold reward on the same labels, and what that is to be expected:
    /// mean max(p, 1 − p), the Bayes accuracy.
    /// </summary>
    public (RewardModelMetrics Metrics, double Gold, double Bayes) Measure(RewardTransformer model)
    {
        double[] margins = [.. _held.Select(p => Gold(p.Chosen) - Gold(p.Rejected))];
        return (_ml.Rlhf().EvaluateRewardModel(model, _ml.Data.LoadFromEnumerable(_held)),
            margins.Average(m => m > 0 ? 1 : m == 0 ? 0.5 : 0), margins.Average(m => 1 / (1 + Math.Exp(-Math.Abs(m)))));
    }

    public Preference[] Pairs(int count) => [.. Enumerable.Range(0, count).Select(_ => Pair())];

    public Ranking[] Rankings(int count) => [.. Enumerable.Range(0, count).Select(_ => Rank(Answer(), Answer(), Answer(), Answer()))];

    private Preference Pair()
    {
        var ranking = Rank(Answer(), Answer());
        return new Preference { Prompt = ranking.Prompt, Chosen = ranking.Answers[0], Rejected = ranking.Answers[1] };
    }

    /// <summary>Plackett–Luce: the best of all is chosen with probability ∝ e^gold, then the best of the rest.</summary>
    private Ranking Rank(params string[] answers)
    {
        string[] ranked = [.. answers.OrderByDescending(answer => Gold(answer) - Math.Log(-Math.Log(1 - _random.NextDouble())))];
        return new Ranking { Prompt = Prompt(), Answers = ranked, Ranks = [.. ranked.Select((_, place) => (float)place)] };
    }

    private string Prompt() => s_prompts[_random.Next(s_prompts.Length)];

    private string Answer() => string.Join(' ', Enumerable.Range(0, AnswerLength).Select(_ => s_words[_random.Next(s_words.Length)]));

    private static double Gold(string answer) => answer.Split(' ').Sum(word => s_worth[word]);
}
