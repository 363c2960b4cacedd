using Microsoft.ML;
using TorchSharp;

namespace ML.Rlhf.Tests.Evaluation;

public sealed class EvaluationTests
{
    private readonly MLContext _ml = new(seed: 1);

    private RlhfCatalog Rlhf => _ml.Rlhf();

    [Fact]
    public void A_model_that_guesses_has_the_perplexity_of_its_vocabulary()
    {
        using var model = Guessing();
        var documents = _ml.Data.LoadFromEnumerable(Tiny.Documents);

        var metrics = Rlhf.EvaluateLanguageModel(model, documents);

        Assert.Equal(29, metrics.Perplexity, 1e-3); // 28 letters and the end of text
        Assert.Equal(Math.Log(29), metrics.Loss, 1e-5);
        int characters = Tiny.Documents.Sum(d => d.Text.Length);
        Assert.Equal(characters + 8 - 1, metrics.TokenCount); // eight ends; nothing predicts the first letter
        Assert.Equal(metrics.TokenCount * Math.Log2(29) / (characters - 1), metrics.BitsPerCharacter, 1e-4);
    }

    [Fact]
    public void Only_completions_and_their_ends_are_measured_in_demonstrations()
    {
        using var model = Guessing();
        Demonstration[] rows = [new() { Prompt = "a long prompt", Completion = "abc" }, new() { Prompt = "", Completion = "d" }];

        var metrics = Rlhf.EvaluateDemonstrations(model, _ml.Data.LoadFromEnumerable(rows));

        Assert.Equal((4 + 2, 29.0), (metrics.TokenCount, Math.Round(metrics.Perplexity, 3)));
        Assert.Equal(6 * Math.Log2(29) / 4, metrics.BitsPerCharacter, 1e-4);
    }

    [Fact]
    public void Training_lowers_the_perplexity()
    {
        var data = _ml.Data.LoadFromEnumerable(Tiny.Demonstrations);
        var options = new SupervisedFineTuningOptions { Epochs = 20, LearningRate = 1e-2 };
        using var tuned = Rlhf.Trainers.SupervisedFineTuning(Tiny.Model, options).Fit(data);

        Assert.InRange(
            Rlhf.EvaluateDemonstrations(tuned, data).Perplexity, 1, Rlhf.EvaluateDemonstrations(Tiny.Model, data).Perplexity / 2);
    }

    /// <summary>The reward model scores sin(0.1 · tokens): longer is better, by a known margin.</summary>
    [Fact]
    public void Accuracy_ties_loss_and_length_baseline_of_a_reward_model_are_as_computed_by_hand()
    {
        using var model = LikesLength();
        Assert.Equal(Math.Sin(0.1 * 3), model.Score("a", "b"), 1e-5); // prompt, answer and end

        var metrics = Rlhf.EvaluateRewardModel(model, _ml.Data.LoadFromEnumerable<Preference>(
        [
            new() { Prompt = "a", Chosen = "bb", Rejected = "b" },   // 4 tokens against 3: right
            new() { Prompt = "a", Chosen = "b", Rejected = "bbbb" }, // 3 against 6: wrong
            new() { Prompt = "ab", Chosen = "c", Rejected = "d" },   // a tie
            new() { Prompt = "", Chosen = "cc", Rejected = "" },     // 4 against 2, for an empty prompt is a token: right
        ]));

        double Score(int tokens) => Math.Sin(0.1 * tokens);
        Assert.Equal((4, 1), (metrics.PairCount, metrics.TieCount));
        Assert.Equal((2 + 0.5) / 4, metrics.Accuracy);
        Assert.Equal((2 + 0.5) / 4, metrics.LengthBaselineAccuracy);
        Assert.Equal((Score(4) + Score(3) + Score(4) + Score(4)) / 4, metrics.MeanChosenScore, 1e-5);
        Assert.Equal((Score(3) + Score(6) + Score(4) + Score(2)) / 4, metrics.MeanRejectedScore, 1e-5);

        double[] logOdds = [.. new[] { (4, 3), (3, 6), (4, 4), (4, 2) }.Select(p => Score(p.Item1) - Score(p.Item2))];
        Assert.Equal(logOdds.Average(x => Math.Log(1 + Math.Exp(-x))), metrics.Loss, 1e-5);
        // All four are less sure than 0.55, or nearly: one is σ(0.29) = 0.566 and wrong.
        Assert.Equal([(0.5, 3, (1 + 0.5 + 1) / 3), (0.55, 1, 0.0)],
            metrics.Calibration.Select(bin => (Math.Round(bin.From, 9), bin.PairCount, bin.Observed)));
        double[] predicted = [.. logOdds.Select(x => 1 / (1 + Math.Exp(-Math.Abs(x))))];
        Assert.Equal((predicted[0] + predicted[2] + predicted[3]) / 3, metrics.Calibration[0].Predicted, 1e-5);
        Assert.Equal(
            (3 * Math.Abs(metrics.Calibration[0].Predicted - 2.5 / 3) + predicted[1]) / 4, metrics.ExpectedCalibrationError, 1e-5);
        Assert.Empty(metrics.ByConfidence);
        Assert.InRange(metrics.LengthCorrelation, 0.9, 1);
    }

    [Fact]
    public void Ranked_answers_are_measured_pair_by_pair_and_ties_are_left_out()
    {
        using var model = LikesLength();
        Ranking[] rows =
        [
            new() { Prompt = "a", Answers = ["b", "bbb", "cc"], Ranks = [3, 1, 2] },         // all three pairs right
            new() { Prompt = "a", Answers = ["b", "bbb", "cc", "d"], Ranks = [1, 2, 2, 1] }, // all four pairs wrong, two are tied
        ];
        var pairs = new[] { ("bbb", "b"), ("bbb", "cc"), ("cc", "b"), ("b", "bbb"), ("b", "cc"), ("d", "bbb"), ("d", "cc") };

        var ranked = Rlhf.EvaluateRewardModel(
            model, _ml.Data.LoadFromEnumerable(rows), answersColumnName: "Answers", ranksColumnName: "Ranks");
        var paired = Rlhf.EvaluateRewardModel(model, _ml.Data.LoadFromEnumerable(
            pairs.Select(p => new Preference { Prompt = "a", Chosen = p.Item1, Rejected = p.Item2 })));

        Assert.Equal((2, 7, 3 / 7.0), (ranked.PromptCount, ranked.PairCount, ranked.Accuracy));
        Assert.Equal(7, paired.PromptCount);
        Assert.Equal(
            paired.Calibration.Select(b => (b.From, b.To, b.PairCount)), ranked.Calibration.Select(b => (b.From, b.To, b.PairCount)));
        Assert.Equal(
            paired with { PromptCount = 0, Calibration = [], ByConfidence = [], LengthCorrelation = 0 },
            ranked with { PromptCount = 0, Calibration = [], ByConfidence = [], LengthCorrelation = 0 });
    }

    [Fact]
    public void Ratings_are_ranks_the_other_way_round()
    {
        var rows = new[] { new Rated { Prompt = "a", Answers = ["b", "bbb", "cc"], Ratings = [-1, 7, 2.5] } };
        using var model = LikesLength();

        var metrics = Rlhf.EvaluateRewardModel(
            model, _ml.Data.LoadFromEnumerable(rows), answersColumnName: "Answers", ratingsColumnName: "Ratings");

        Assert.Equal((3, 1.0), (metrics.PairCount, metrics.Accuracy));
        Assert.Equal(
            "EvaluateRewardModel: RanksColumnName, RatingsColumnName is null, but must be one of the two, for there is an " +
            "AnswersColumnName.",
            Assert.Throws<ArgumentException>(
                () => Rlhf.EvaluateRewardModel(model, _ml.Data.LoadFromEnumerable(rows), answersColumnName: "Answers")).Message);
    }

    /// <summary>Calibration is of what was learned: the normalisation's gain is taken out again.</summary>
    [Fact]
    public void Gain_and_bias_change_scores_and_nothing_else()
    {
        using var model = LikesLength();
        var data = _ml.Data.LoadFromEnumerable(Tiny.Preferences);
        var learned = Rlhf.EvaluateRewardModel(model, data);

        ((Torch.Modules.ScalarGpt)model.Module).Normalize(gain: 10, bias: -3);
        var normalized = Rlhf.EvaluateRewardModel(model, data);

        Assert.Equal(learned.MeanChosenScore * 10 - 3, normalized.MeanChosenScore, 1e-4);
        Assert.Equal(learned.Loss, normalized.Loss, 1e-5);
        Assert.Equal(learned.ExpectedCalibrationError, normalized.ExpectedCalibrationError, 1e-5);
        Assert.Equal((learned.Accuracy, learned.TieCount), (normalized.Accuracy, normalized.TieCount));
        Assert.Equal(learned.LengthCorrelation, normalized.LengthCorrelation, 1e-5);
    }

    [Fact]
    public void Accuracy_is_told_apart_by_confidence()
    {
        using var model = LikesLength();
        Sure Row(string chosen, string rejected, float weight) =>
            new() { Prompt = "a", Chosen = chosen, Rejected = rejected, Weight = weight };
        RewardModelMetrics Measure(params Sure[] rows) =>
            Rlhf.EvaluateRewardModel(model, _ml.Data.LoadFromEnumerable(rows), weightColumnName: "Weight");

        var few = Measure(Row("bb", "b", 1), Row("b", "bb", 0.25f), Row("b", "bbb", 0.25f), Row("bbb", "b", 0.25f));
        var many = Measure([.. Enumerable.Range(0, 40).Select(i => i < 20 ? Row("b", "bb", i / 2) : Row("bb", "b", i))]);

        Assert.Equal([new ConfidenceBin(0.25, 0.25, 3, 1 / 3.0), new ConfidenceBin(1, 1, 1, 1)], few.ByConfidence);
        Assert.Equal(10, many.ByConfidence.Count);
        Assert.All(many.ByConfidence, bin => Assert.Equal((4, bin.From < 20 ? 0 : 1), (bin.PairCount, bin.Accuracy)));
        Assert.Equal((0, 1), (many.ByConfidence[0].From, many.ByConfidence[0].To));
    }

    [Fact]
    public void The_length_baseline_is_the_better_of_longer_and_shorter()
    {
        string[] chosen = ["ccc", "c", "d", "e"];
        var preferShort = chosen.Select(text => new Preference { Prompt = "a", Chosen = text, Rejected = "bb" });

        var metrics = Rlhf.EvaluateRewardModel(Tiny.Reward, _ml.Data.LoadFromEnumerable(preferShort));

        Assert.Equal(0.75, metrics.LengthBaselineAccuracy);
    }

    [Fact]
    public void A_reward_model_that_knows_nothing_guesses()
    {
        using var model = Tiny.TrainReward(Tiny.Model);
        using (torch.NewDisposeScope())
            Tiny.SetWeight(model.Module, "score.weight", torch.zeros(1, 16));

        var metrics = Rlhf.EvaluateRewardModel(model, _ml.Data.LoadFromEnumerable(Tiny.Preferences));

        Assert.Equal((8, 8, 0.5), (metrics.PairCount, metrics.TieCount, metrics.Accuracy));
    }

    [Fact]
    public void A_policy_does_not_diverge_from_itself()
    {
        var metrics = Rlhf.EvaluatePolicy(Tiny.Model, Tiny.Model, _ml.Data.LoadFromEnumerable(Tiny.Prompts));

        Assert.Equal((8, 0.0), (metrics.PromptCount, metrics.Kl));
        Assert.InRange(metrics.ResponseLength, 1, 6);
        Assert.InRange(metrics.EndRate, 0, 1);
    }

    [Fact]
    public void Different_models_diverge_and_each_way_has_its_own_number()
    {
        using var other = Tiny.Train(seed: 2);
        var prompts = _ml.Data.LoadFromEnumerable(Tiny.Prompts);

        double there = Rlhf.EvaluatePolicy(Tiny.Model, other, prompts).Kl, back = Rlhf.EvaluatePolicy(other, Tiny.Model, prompts).Kl;

        Assert.InRange(there, 0.01, 100);
        Assert.InRange(back, 0.01, 100);
        Assert.NotEqual(there, back);
    }

    /// <summary>A policy that draws all 29 tokens alike, from one that gives a third of its mass to "a": KL per token is known.</summary>
    [Fact]
    public void The_divergence_of_a_response_is_the_sum_over_its_tokens()
    {
        using var policy = Guessing();
        using var reference = Guessing(logitOfA: Math.Log(14)); // p(a) = 14/42, the others 1/42 each
        using var oneToken = policy.WithSampling(new SamplingOptions { MaxNewTokens = 1 });

        double kl = Rlhf.EvaluatePolicy(oneToken, reference, _ml.Data.LoadFromEnumerable(Tiny.Prompts)).Kl;

        Assert.Equal(Math.Log(1 / 29.0) - (28 * Math.Log(1 / 42.0) + Math.Log(14 / 42.0)) / 29, kl, 1e-4);
    }

    [Theory]
    [InlineData(0f, 0, 1f, "Temperature 0")]
    [InlineData(1f, 5, 1f, "TopK")]
    [InlineData(1f, 5, 1.2f, "RepetitionPenalty, TopK")]
    public void A_policy_that_draws_from_another_distribution_than_its_own_is_refused(
        float temperature, int topK, float repetitionPenalty, string named)
    {
        using var policy = Tiny.Model.WithSampling(
            new SamplingOptions { Temperature = temperature, TopK = topK, RepetitionPenalty = repetitionPenalty });

        Assert.Equal(
            $"The policy samples with {named}, so its answers are not drawn from the distribution whose divergence is measured. " +
            "Pass policy.WithSampling(new SamplingOptions { … }) without. (Parameter 'policy')",
            Assert.Throws<ArgumentException>(
                () => Rlhf.EvaluatePolicy(policy, Tiny.Model, _ml.Data.LoadFromEnumerable(Tiny.Prompts))).Message);
    }

    [Fact]
    public void A_reference_that_cannot_hold_the_answers_is_an_error()
    {
        using var shorter = Tiny.Train(architecture: Tiny.Architecture with { ContextLength = 16 });

        Assert.StartsWith(
            "The reference's context is 16 tokens, shorter than the policy's 32, so it may not hold the policy's answers.",
            Assert.Throws<ArgumentException>(
                () => Rlhf.EvaluatePolicy(Tiny.Model, shorter, _ml.Data.LoadFromEnumerable(Tiny.Prompts))).Message);
    }

    [Fact]
    public void Policies_of_another_tokenizer_cannot_be_compared()
    {
        using var bytes = Tiny.Train(TextTokenizer.FromBytes());

        Assert.Equal(
            "The policy has a byte tokenizer of 257 tokens, but the reference has another character tokenizer of 29 tokens: " +
            "their tokens cannot be compared. Compare a policy with the model that it was trained from. (Parameter 'reference')",
            Assert.Throws<ArgumentException>(
                () => Rlhf.EvaluatePolicy(bytes, Tiny.Model, _ml.Data.LoadFromEnumerable(Tiny.Prompts))).Message);
    }

    [Fact]
    public void A_missing_column_is_named()
    {
        var data = _ml.Data.LoadFromEnumerable(new[] { new Nothing() });

        Assert.Equal("Could not find text column 'Text' (Parameter 'inputSchema')",
            Assert.Throws<ArgumentOutOfRangeException>(() => Rlhf.EvaluateLanguageModel(Tiny.Model, data)).Message);
        var prompts = _ml.Data.LoadFromEnumerable(Tiny.Prompts);
        Assert.Equal("Could not find completion column 'C' (Parameter 'inputSchema')",
            Assert.Throws<ArgumentOutOfRangeException>(
                () => Rlhf.EvaluateDemonstrations(Tiny.Model, prompts, completionColumnName: "C")).Message);
        Assert.Equal("Could not find chosen column 'Chosen' (Parameter 'inputSchema')",
            Assert.Throws<ArgumentOutOfRangeException>(
                () => Rlhf.EvaluateRewardModel(Tiny.Reward, prompts)).Message);
        Assert.Equal("Could not find prompt column 'Prompt' (Parameter 'inputSchema')",
            Assert.Throws<ArgumentOutOfRangeException>(() => Rlhf.EvaluatePolicy(Tiny.Model, Tiny.Model, data)).Message);
    }

    [Fact]
    public void Nothing_to_measure_is_an_error()
    {
        Assert.StartsWith("The data has no rows, so there are no documents to use", Assert.Throws<InvalidOperationException>(
            () => Rlhf.EvaluateLanguageModel(Tiny.Model, _ml.Data.LoadFromEnumerable(Array.Empty<Document>()))).Message);
        Assert.StartsWith("The data has no rows, so there are no demonstrations to use", Assert.Throws<InvalidOperationException>(
            () => Rlhf.EvaluateDemonstrations(Tiny.Model, _ml.Data.LoadFromEnumerable(Array.Empty<Demonstration>()))).Message);
        Assert.StartsWith("The data has no rows, so there are no preferences to use", Assert.Throws<InvalidOperationException>(
            () => Rlhf.EvaluateRewardModel(Tiny.Reward, _ml.Data.LoadFromEnumerable(Array.Empty<Preference>()))).Message);
        Assert.StartsWith("The data has no rows, so there are no prompts to use", Assert.Throws<InvalidOperationException>(
            () => Rlhf.EvaluatePolicy(Tiny.Model, Tiny.Model, _ml.Data.LoadFromEnumerable(Array.Empty<PromptOnly>()))).Message);
    }

    [Fact]
    public void Measuring_leaves_no_tensors_and_the_model_as_it_is()
    {
        Measure(); // what is made once per process is not a leak
        var before = Tiny.Weights(Tiny.Model);
        long live = DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;

        Measure();

        Assert.Equal(live, DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount);
        Assert.Equal(before, Tiny.Weights(Tiny.Model));

        void Measure()
        {
            Rlhf.EvaluateLanguageModel(Tiny.Model, _ml.Data.LoadFromEnumerable(Tiny.Documents));
            Rlhf.EvaluateDemonstrations(Tiny.Model, _ml.Data.LoadFromEnumerable(Tiny.Demonstrations));
            Rlhf.EvaluateRewardModel(Tiny.Reward, _ml.Data.LoadFromEnumerable(Tiny.Preferences));
            Rlhf.EvaluatePolicy(Tiny.Model, Tiny.Model, _ml.Data.LoadFromEnumerable(Tiny.Prompts));
        }
    }

    /// <summary>Every token is as likely as every other, but for "a": the last states are ones, and embeddings are zero.</summary>
    private static TextGenerationTransformer Guessing(double logitOfA = 0)
    {
        var model = Tiny.Train();
        using var scope = torch.NewDisposeScope();
        var embeddings = torch.zeros(29, 16);
        embeddings[Tiny.Letters.Encode("a")[0], 0] = logitOfA;
        Tiny.SetWeight(model.Module, "wte.weight", embeddings);
        Tiny.SetWeight(model.Module, "ln_f.weight", torch.zeros(16));
        Tiny.SetWeight(model.Module, "ln_f.bias", torch.ones(16));
        return model;
    }

    /// <summary>
    /// Scores sin(0.1 · tokens). Blocks that add nothing and embeddings that are zero leave the position: a point on a circle that the
    /// last norm leaves where it is (mean 0, variance 1), and of which the head reads one coordinate.
    /// </summary>
    private static RewardTransformer LikesLength()
    {
        var model = Tiny.TrainReward(Tiny.Model, new RewardModelOptions { Normalization = ScoreNormalization.None });
        using var noGrad = torch.no_grad();
        using var scope = torch.NewDisposeScope();
        foreach (var (name, parameter) in model.Module.named_parameters())
            parameter.fill_(name.EndsWith("ln_f.weight", StringComparison.Ordinal) ? 1 : 0);

        var cosine = torch.tensor(Enumerable.Range(0, 16).Select(i => i % 2 == 0 ? 1f : -1f).ToArray());
        var sine = torch.tensor(Enumerable.Range(0, 16).Select(i => i / 2 % 2 == 0 ? 1f : -1f).ToArray());
        var angle = (torch.arange(32).to(torch.float32) + 1).unsqueeze(-1) * 0.1f; // a sequence of n tokens ends at position n − 1
        Tiny.SetWeight(model.Module, "transformer.wpe.weight", angle.cos() * cosine + angle.sin() * sine);
        Tiny.SetWeight(model.Module, "score.weight", (sine / 16).unsqueeze(0));
        return model;
    }

    private sealed class Rated
    {
        public string Prompt { get; set; } = "";
        public string[] Answers { get; set; } = [];
        public double[] Ratings { get; set; } = [];
    }

    private sealed class Sure
    {
        public string Prompt { get; set; } = "";
        public string Chosen { get; set; } = "";
        public string Rejected { get; set; } = "";
        public float Weight { get; set; }
    }

    private sealed class Nothing
    {
        public string Other { get; set; } = "";
    }
}
