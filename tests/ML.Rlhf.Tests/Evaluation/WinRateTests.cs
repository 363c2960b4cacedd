using Microsoft.ML;

namespace ML.Rlhf.Tests.Evaluation;

public sealed class WinRateTests : IDisposable
{
    private static readonly Func<string, string, float> s_length = (_, answer) => answer.Length;

    private readonly MLContext _ml = new(seed: 1);
    private readonly TextGenerationTransformer _other = Tiny.Train(seed: 2);

    private RlhfCatalog Rlhf => _ml.Rlhf();

    private IDataView Prompts => _ml.Data.LoadFromEnumerable(Tiny.Prompts);

    public void Dispose() => _other.Dispose();

    [Fact]
    public void A_model_against_itself_wins_exactly_half()
    {
        foreach (var metrics in new[]
        {
            Rlhf.EvaluateWinRate(Tiny.Model, Tiny.Model, Prompts, s_length),
            Rlhf.EvaluateWinRate(Tiny.Model, Tiny.Model, Prompts, Tiny.Reward),
            Rlhf.EvaluateWinRate(Tiny.Model, Tiny.Model, Prompts, (_, first, second) => first.Length > second.Length ? 1 : 0.3),
        })
        {
            Assert.Equal((8, 0.5, 8, 1.0), (metrics.PromptCount, metrics.WinRate, metrics.TieCount, metrics.TieRate));
            Assert.Equal(metrics.MeanBaselineScore, metrics.MeanCandidateScore);
            Assert.Equal(1, metrics.LowerBound + metrics.UpperBound, 1e-12);
        }
    }

    [Fact]
    public void The_higher_score_wins_and_equal_scores_are_half_a_win()
    {
        string[] prompts = [.. Tiny.Prompts.Select(p => p.Prompt)];
        var (ours, theirs) = (Tiny.Model.Generate(prompts), _other.Generate(prompts));
        double[] wins = [.. ours.Zip(theirs, (a, b) => a.Length > b.Length ? 1 : a.Length == b.Length ? 0.5 : 0)];

        var metrics = Rlhf.EvaluateWinRate(Tiny.Model, _other, Prompts, s_length);
        var back = Rlhf.EvaluateWinRate(_other, Tiny.Model, Prompts, s_length);

        Assert.Equal(wins.Average(), metrics.WinRate, 1e-12);
        Assert.Equal(wins.Count(win => win == 0.5), metrics.TieCount);
        Assert.Equal((ours.Average(a => a.Length), theirs.Average(a => a.Length)), (metrics.MeanCandidateScore, metrics.MeanBaselineScore));
        Assert.Equal(1, metrics.WinRate + back.WinRate, 1e-12);
        Assert.Equal(1 - metrics.LowerBound, back.UpperBound, 1e-12);
        Assert.Null(metrics.PositionBias);
        Assert.Null(metrics.OrderDisagreement);
    }

    /// <summary>What PPO is for, seen by the judge that it was trained by.</summary>
    [Fact]
    public void A_policy_wins_by_what_it_was_trained_for()
    {
        using var policy = Rlhf.Trainers.Ppo(Tiny.Model, s_length, new PpoOptions
        {
            Episodes = 32 * 20, EpisodesPerUpdate = 32, EpochsPerUpdate = 4, MaxResponseTokens = 6, LearningRate = 3e-3,
            KlCoefficient = 0.01, UnfinishedScore = null,
        }).Fit(Prompts);

        Assert.InRange(Rlhf.EvaluateWinRate(policy, Tiny.Model, Prompts, s_length).WinRate, 0.55, 1);
    }

    [Fact]
    public void All_judges_of_single_answers_are_asked_alike()
    {
        var sum = Rlhf.Rewards.Sum((Rlhf.Rewards.FromFunction(s_length), 2));

        var byFunction = Rlhf.EvaluateWinRate(Tiny.Model, _other, Prompts, s_length);
        var byReward = Rlhf.EvaluateWinRate(Tiny.Model, _other, Prompts, sum);

        Assert.Equal(byFunction with { MeanBaselineScore = null, MeanCandidateScore = null },
            byReward with { MeanBaselineScore = null, MeanCandidateScore = null });
        Assert.Equal(2 * byFunction.MeanCandidateScore, byReward.MeanCandidateScore);
        Assert.Equal(
            Rlhf.EvaluateWinRate(Tiny.Model, _other, Prompts, Rlhf.Rewards.FromTransformer(Tiny.Reward)),
            Rlhf.EvaluateWinRate(Tiny.Model, _other, Prompts, Tiny.Reward));
    }

    [Fact]
    public void A_judge_of_pairs_is_asked_in_both_orders_with_the_prompt_as_it_was()
    {
        var asked = new List<(string Prompt, string First, string Second)>();

        Rlhf.EvaluateWinRate(Tiny.Model, _other, Prompts, (prompt, first, second) =>
        {
            asked.Add((prompt, first, second));
            return 0.5;
        });

        var expected = Tiny.Prompts.Select(p => (p.Prompt, Tiny.Model.Generate(p.Prompt), _other.Generate(p.Prompt))).ToList();
        Assert.Equal([.. expected, .. expected.Select(q => (q.Prompt, q.Item3, q.Item2))], asked);
    }

    [Fact]
    public void A_judge_that_knows_the_better_answer_has_no_bias()
    {
        string[] better = [.. Tiny.Prompts.Select(p => Tiny.Model.Generate(p.Prompt))];

        var metrics = Rlhf.EvaluateWinRate(Tiny.Model, _other, Prompts, (_, first, _) => better.Contains(first) ? 1 : 0);

        Assert.Equal((1, 0, 0, 0), (metrics.WinRate, metrics.TieCount, metrics.PositionBias, metrics.OrderDisagreement));
        Assert.Null(metrics.MeanCandidateScore);
        Assert.Equal(1, metrics.UpperBound);
    }

    [Fact]
    public void A_judge_that_takes_the_first_answer_is_all_bias_and_decides_nothing()
    {
        var metrics = Rlhf.EvaluateWinRate(Tiny.Model, _other, Prompts, (_, _, _) => 1);

        Assert.Equal((0.5, 8, 0.5, 1), (metrics.WinRate, metrics.TieCount, metrics.PositionBias, metrics.OrderDisagreement));
    }

    [Fact]
    public void Probabilities_of_both_orders_are_averaged()
    {
        string[] ours = [.. Tiny.Prompts.Select(p => Tiny.Model.Generate(p.Prompt))];

        var metrics = Rlhf.EvaluateWinRate(Tiny.Model, _other, Prompts, (_, first, _) => ours.Contains(first) ? 0.9 : 0.3);

        Assert.Equal((0.9 + 0.7) / 2, metrics.WinRate, 1e-12);
        Assert.Equal((0.9 + 0.3) / 2 - 0.5, metrics.PositionBias!.Value, 1e-12);
        Assert.Equal((0.0, 0), (metrics.OrderDisagreement, metrics.TieCount));
    }

    [Fact]
    public void Models_with_different_tokenizers_are_compared_by_their_texts()
    {
        using var bytes = Tiny.Train(TextTokenizer.FromBytes());
        using var judge = Tiny.TrainReward(bytes);

        var metrics = Rlhf.EvaluateWinRate(bytes, Tiny.Model, Prompts, (_, _) => 1);
        var byReward = Rlhf.EvaluateWinRate(bytes, Tiny.Model, Prompts, judge);

        Assert.Equal((0.5, 8), (metrics.WinRate, metrics.TieCount));
        Assert.InRange(byReward.WinRate, 0, 1);
        Assert.NotEqual(byReward.MeanCandidateScore, byReward.MeanBaselineScore);
    }

    [Fact]
    public void A_reward_model_with_another_tokenizer_sees_an_end_only_where_the_model_ended()
    {
        using var bytes = Tiny.Train(TextTokenizer.FromBytes());
        using var judge = Tiny.TrainReward(bytes);
        using var oneToken = Tiny.Model.WithSampling(new SamplingOptions { MaxNewTokens = 1 });
        using var longer = Tiny.Model.WithSampling(new SamplingOptions { MaxNewTokens = 25 });
        string[] cut = [.. Tiny.Prompts.Select(p => oneToken.Generate(p.Prompt))];
        string[] ended = [.. new[] { "cat", "dog", "cow" }.Select(prompt => longer.Generate(prompt))];
        Assert.DoesNotContain("", cut); // each is a letter, and not the end
        Assert.All(ended, answer => Assert.InRange(answer.Length, 0, 24));

        double Cut() => Rlhf.EvaluateWinRate(oneToken, oneToken, Prompts, judge).MeanCandidateScore!.Value;
        double Ended() => Rlhf.EvaluateWinRate(longer, longer, _ml.View("cat", "dog", "cow"), judge).MeanCandidateScore!.Value;

        Assert.Equal(new[] { "cat", "dog", "cow" }.Zip(ended, judge.Score).Average(), Ended(), 1e-4);
        double withEnds = Tiny.Prompts.Zip(cut, (p, answer) => judge.Score(p.Prompt, answer)).Average();
        Assert.InRange(Math.Abs(withEnds - Cut()), 1e-2, 10);
    }

    [Fact]
    public void Prompts_that_fill_a_context_are_left_out_with_a_warning()
    {
        using var bytes = Tiny.Train(TextTokenizer.FromBytes(), Tiny.Architecture with { ContextLength = 8 });
        var warnings = _ml.Warnings();

        var metrics = Rlhf.EvaluateWinRate(bytes, Tiny.Model, _ml.View("cat", new string('a', 10), new string('a', 32)), s_length);

        Assert.Equal(1, metrics.PromptCount);
        Assert.Contains(
            "2 of 3 prompts fill a model's context, and were left out. " +
            "Shorten them, or set SamplingOptions.TruncatePrompts to keep their ends.",
            warnings);
    }

    [Fact]
    public void The_same_seeds_give_the_same_metrics_and_another_seed_other_answers()
    {
        using var again = Tiny.Model.WithSampling(Tiny.Model.Sampling with { Seed = 7 });

        Assert.Equal(
            Rlhf.EvaluateWinRate(Tiny.Model, again, Prompts, s_length), Rlhf.EvaluateWinRate(Tiny.Model, again, Prompts, s_length));
        Assert.InRange(Rlhf.EvaluateWinRate(Tiny.Model, again, Prompts, s_length).TieCount, 0, 7);
    }

    [Fact]
    public void What_a_judge_may_not_give_is_an_error()
    {
        foreach (double wrong in new[] { 1.5, -0.1, double.NaN })
        {
            Assert.StartsWith($"The judge gave {wrong} for the answers to 'cat', but must give the probability that the first is better",
                Assert.Throws<InvalidOperationException>(
                    () => Rlhf.EvaluateWinRate(Tiny.Model, _other, Prompts, (_, _, _) => wrong)).Message);
        }
        Assert.StartsWith("The reward of an episode is NaN", Assert.Throws<InvalidOperationException>(
            () => Rlhf.EvaluateWinRate(Tiny.Model, _other, Prompts, (_, _) => float.NaN)).Message);
    }

    [Fact]
    public void What_does_not_fit_is_an_error()
    {
        Assert.Equal("Could not find prompt column 'P' (Parameter 'inputSchema')", Assert.Throws<ArgumentOutOfRangeException>(
            () => Rlhf.EvaluateWinRate(Tiny.Model, _other, Prompts, s_length, "P")).Message);
        Assert.StartsWith("The data has no rows, so there are no prompts to use", Assert.Throws<InvalidOperationException>(
            () => Rlhf.EvaluateWinRate(Tiny.Model, _other, _ml.View(), s_length)).Message);
        Assert.StartsWith("None of the 1 rows of the data can be used as prompts", Assert.Throws<InvalidOperationException>(
            () => Rlhf.EvaluateWinRate(Tiny.Model, _other, _ml.View(new string('a', 32)), s_length)).Message);
        Assert.Throws<ArgumentNullException>("candidate", () => Rlhf.EvaluateWinRate(null!, _other, Prompts, s_length));
        Assert.Throws<ArgumentNullException>("baseline", () => Rlhf.EvaluateWinRate(_other, null!, Prompts, s_length));
        Assert.Throws<ArgumentNullException>("prompts", () => Rlhf.EvaluateWinRate(_other, _other, null!, s_length));
        Assert.Throws<ArgumentNullException>("judge", () => Rlhf.EvaluateWinRate(_other, _other, Prompts, (Reward)null!));
    }

    /// <summary>With wins and losses only, it is the interval of a proportion after adding two of each.</summary>
    [Fact]
    public void The_interval_is_as_computed_by_hand()
    {
        var metrics = WinRateEvaluation.Summarize([1, 1, 1, 1, 1, 1, 1, 1, 0, 0]);

        double p = 10 / 14.0, margin = 1.96 * Math.Sqrt(p * (1 - p) / 14);
        Assert.Equal(0.8, metrics.WinRate, 1e-12);
        Assert.Equal(p - margin, metrics.LowerBound, 1e-5);
        Assert.Equal(p + margin, metrics.UpperBound, 1e-5);
        var unanimous = WinRateEvaluation.Summarize([.. Enumerable.Repeat(1.0, 30)]);
        Assert.InRange(unanimous.LowerBound, 0.8, 0.95);
        Assert.Equal(1, unanimous.UpperBound);
    }

    /// <summary>Intervals hold the true win rate about 95 times in 100, and are little wider than they need be.</summary>
    [Theory]
    [InlineData(40, 0.5, 0.0)]
    [InlineData(40, 0.05, 0.0)]
    [InlineData(40, 0.9, 0.0)]
    [InlineData(40, 0.3, 0.5)]
    [InlineData(400, 0.1, 0.8)]
    [InlineData(400, 0.6, 0.0)]
    public void The_interval_holds_the_truth_95_times_in_100(int prompts, double win, double tie)
    {
        const int Draws = 4000;
        var random = new Random(1);
        int held = 0;
        double width = 0;
        for (int i = 0; i < Draws; i++)
        {
            var metrics = WinRateEvaluation.Summarize([.. Enumerable.Range(0, prompts).Select(_ =>
                random.NextDouble() is var u && u < win ? 1 : u < win + tie ? 0.5 : 0)]);
            held += metrics.LowerBound <= win + tie / 2 && win + tie / 2 <= metrics.UpperBound ? 1 : 0;
            width += (metrics.UpperBound - metrics.LowerBound) / Draws;
        }

        double truth = win + tie / 2, deviation = Math.Sqrt(win + tie / 4 - truth * truth);
        Assert.InRange((double)held / Draws, 0.935, 0.995);
        Assert.InRange(width / (2 * 1.96 * deviation / Math.Sqrt(prompts)), 0.9, 1.35);
    }
}
