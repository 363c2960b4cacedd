using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;

namespace ML.Rlhf.Tests.Ppo;

public sealed class PpoTrainerTests
{
    private readonly MLContext _ml = new(seed: 1);

    private static PpoOptions Options => new()
    {
        Episodes = 8,
        EpisodesPerUpdate = 4,
        EpochsPerUpdate = 1,
        MaxResponseTokens = 5,
        LearningRate = 1e-3,
        UnfinishedScore = null,
    };

    [Fact]
    public void It_gets_better_at_what_a_function_rewards()
    {
        var progress = new ProgressRecords();
        var options = Options with
        {
            Episodes = 32 * 30, EpisodesPerUpdate = 32, EpochsPerUpdate = 4, MaxResponseTokens = 6,
            LearningRate = 3e-3, KlCoefficient = 0.01, Progress = progress,
        };

        using var policy = Fit((_, answer) => answer.Count(c => c == 'a'), options);

        double[] scores = [.. progress.Cast<PpoProgress>().Select(p => p.Score)];
        Assert.InRange(scores[..3].Average(), 0, 1.5);
        Assert.InRange(scores[^3..].Average(), scores[..3].Average() + 1, 6);
        var kl = _ml.Rlhf().EvaluatePolicy(policy, Tiny.Model, Prompts).Kl;
        Assert.InRange(kl, 0.1, 100);
    }

    [Fact]
    public void A_gold_reward_is_watched_and_never_learned_from()
    {
        ProgressRecords alone = [], watched = [];
        using var policy = Fit((_, answer) => answer.Length, Options with { Progress = alone });
        using var same = Fit((_, answer) => answer.Length, Options with
        {
            Progress = watched, GoldReward = _ml.Rlhf().Rewards.FromFunction((_, answer) => -2 * answer.Length),
        });

        Assert.Equal(Tiny.Weights(policy), Tiny.Weights(same));
        Assert.All(alone.Cast<PpoProgress>(), p => Assert.Null(p.GoldScore));
        Assert.All(watched.Cast<PpoProgress>(), p => Assert.Equal(-2 * p.Score, p.GoldScore!.Value, 1e-9));
        Assert.Throws<InvalidOperationException>(() => Fit((_, _) => 0, Options with
        {
            GoldReward = _ml.Rlhf().Rewards.FromFunction((_, _) => float.NaN),
        }));
    }

    [Fact]
    public void A_run_that_an_alarm_stops_gives_the_last_healthy_model_and_says_why()
    {
        var ml = new MLContext(seed: 1);
        var warnings = ml.Warnings();
        var progress = new ProgressRecords();

        using var policy = ml.Rlhf().Trainers.Ppo(Tiny.Model, (_, answer) => answer.Length, Options with
        {
            Progress = progress, Alarms = new AlarmOptions { Policy = AlarmPolicy.Stop, MinEntropy = 100 },
        }).Fit(Prompts);

        var alarm = Assert.Single(Assert.IsType<PpoProgress>(Assert.Single(progress)).Alarms);
        Assert.Equal((AlarmKind.LowEntropy, AlarmPolicy.Stop), (alarm.Kind, alarm.Policy));
        Assert.Equal([$"Update 1: {alarm.Message} The run ends with the weights that it began with."], warnings);
        Assert.Equal(Tiny.Weights(Tiny.Model), Tiny.Weights(policy));
    }

    [Fact]
    public void A_function_gets_prompts_as_they_were_and_answers_without_the_end()
    {
        var seen = new List<(string Prompt, string Answer)>();

        Fit((prompt, answer) => { seen.Add((prompt, answer)); return 0; }, Options).Dispose();

        Assert.Equal(8, seen.Count);
        Assert.Equal(Tiny.Prompts.Select(p => p.Prompt).Order(), seen.Select(s => s.Prompt).Order()); // each once, in a random order
        Assert.NotEqual(Tiny.Prompts.Select(p => p.Prompt), seen.Select(s => s.Prompt));
        Assert.All(seen, s => Assert.InRange(s.Answer.Length, 0, 5));
        Assert.DoesNotContain(seen, s => s.Answer.Contains('<'));
        Assert.InRange(seen.Select(s => s.Answer).Distinct().Count(), 4, 8);
    }

    [Fact]
    public void A_function_may_keep_tensors_of_its_own()
    {
        TorchSharp.torch.Tensor? bonus = null;

        Fit((_, answer) => (bonus ??= TorchSharp.torch.ones(1)).data<float>()[0] * answer.Length, Options).Dispose();

        Assert.False(bonus!.IsInvalid);
        bonus.Dispose();
    }

    [Fact]
    public void A_listener_of_the_log_may_keep_tensors_of_its_own_when_it_hears_of_an_alarm()
    {
        TorchSharp.torch.Tensor? kept = null;
        _ml.Log += (_, e) => kept ??= e.RawMessage.StartsWith("Update ", StringComparison.Ordinal) ? TorchSharp.torch.ones(1) : null;

        Fit((_, _) => 1, Options with { Episodes = 128, EpisodesPerUpdate = 128 }).Dispose(); // all scores are the same

        Assert.False(kept!.IsInvalid);
        kept.Dispose();
    }

    [Fact]
    public void A_transformer_that_drops_rows_is_no_reward()
    {
        var rows = _ml.Data.LoadFromEnumerable([new Review()]);
        var dropping = new DroppingTransformer(_ml.Transforms.CopyColumns("Score", "Text").Fit(rows));

        var error = Assert.Throws<ArgumentException>(() => _ml.Rlhf().Trainers.Ppo(Tiny.Model, dropping, Options).Fit(Prompts));

        Assert.StartsWith("The reward transformer drops or adds rows, but each response needs one score.", error.Message);
    }

    [Fact]
    public void Before_the_first_step_the_policy_is_the_reference()
    {
        var progress = new ProgressRecords();
        int answers = 0;

        Fit((_, _) => answers++ % 2 == 0 ? 1 : 3, Options with { Progress = progress, KlCoefficient = 0.25 }).Dispose();

        var first = Assert.IsType<PpoProgress>(progress[0]);
        Assert.Equal((1, 2, "PPO"), (first.Step, first.TotalSteps, first.Stage));
        Assert.Equal(0, first.Kl);
        Assert.Equal(0.25, first.KlCoefficient);
        Assert.Equal((2, 1, 2), (first.Score, first.ScoreDeviation, first.RlhfReward));
        Assert.Equal(1, first.RatioMean, 1e-6);
        Assert.Equal((1, 1), (first.RatioMinimum, first.RatioMaximum));
        Assert.Equal((0, 0, 0), (first.ApproximateKl, first.PolicyClipFraction, first.ValueClipFraction));
        Assert.InRange(first.Entropy, 0.5, Math.Log(29));
        Assert.InRange(first.LogProbDrift, 0, 1e-3);
        Assert.InRange(first.ResponseLength, 1, 5);
        Assert.InRange(first.EndRate, 0, 1);
        Assert.InRange(first.PolicyLoss, -1e-3, 1e-3); // whitened advantages at ratio 1
        Assert.InRange(first.ValueLoss, 1e-3, 10);
        Assert.InRange(first.EpisodesPerSecond, 1, 1e6);
        Assert.Equal(Options.LearningRate, first.LearningRate);

        var second = Assert.IsType<PpoProgress>(progress[1]);
        Assert.NotEqual(0, second.Kl);
        Assert.Equal(1, second.RatioMean, 1e-6); // one step per update: each starts from the policy that sampled
    }

    [Fact]
    public void Unfinished_answers_have_the_score_of_the_options()
    {
        var progress = new ProgressRecords();

        Fit((_, _) => 5, Options with { Progress = progress, MaxResponseTokens = 1, UnfinishedScore = -2 }).Dispose();

        Assert.All(progress.Cast<PpoProgress>(), p => Assert.Equal(5 * p.EndRate - 2 * (1 - p.EndRate), p.Score, 1e-6));
        Assert.Contains(progress.Cast<PpoProgress>(), p => p.EndRate < 1);
    }

    [Fact]
    public void A_reward_model_scores_the_tokens_that_were_sampled_and_stays_as_it_is()
    {
        var progress = new ProgressRecords();
        var before = Tiny.Weights(Tiny.Reward);

        using var policy = Fit(Tiny.Reward, Options with { Progress = progress });

        Assert.Equal(before, Tiny.Weights(Tiny.Reward));
        Assert.NotEqual(Tiny.Weights(Tiny.Model), Tiny.Weights(policy));
        Assert.All(progress.Cast<PpoProgress>(), p => Assert.InRange(p.Score, -10, 10));
    }

    /// <summary>The value function starts from the reward model in one case and from the policy in the other.</summary>
    [Fact]
    public void A_reward_model_in_a_chain_gives_finished_answers_the_same_scores()
    {
        ProgressRecords alone = [], chained = [];
        var chain = _ml.Transforms.CopyColumns("Same", "Prompt").Fit(_ml.Data.LoadFromEnumerable(Tiny.Demonstrations)).Append(Tiny.Reward);

        Fit(Tiny.Reward, Options with { Progress = alone, UnfinishedScore = 0 }).Dispose();
        Fit(chain, Options with { Progress = chained, UnfinishedScore = 0 }).Dispose();

        Assert.Equal(((PpoProgress)alone[0]).Score, ((PpoProgress)chained[0]).Score, 1e-4);
    }

    [Theory]
    [InlineData("Probability")]
    [InlineData("Score")]
    [InlineData("PredictedLabel")]
    public void A_stock_pipeline_rewards_by_the_column_that_was_chosen(string column)
    {
        var progress = new ProgressRecords();

        Fit(Classifier(), Options with { Progress = progress }, column).Dispose();

        var scores = progress.Cast<PpoProgress>().Select(p => p.Score).ToList();
        Assert.All(scores, score => Assert.True(double.IsFinite(score)));
        if (column != "Score")
            Assert.All(scores, score => Assert.InRange(score, 0, 1));
        if (column == "PredictedLabel")
            Assert.All(scores, score => Assert.Equal(Math.Round(score * 4), score * 4)); // of four episodes, so many are good
    }

    [Fact]
    public void Pretraining_text_comes_from_any_text_column()
    {
        var progress = new ProgressRecords();
        var text = _ml.Transforms.CopyColumns("Page", "Text").Fit(Documents).Transform(Documents);

        Fit((_, _) => 0, Options with { Progress = progress, PretrainingData = text, PretrainingTextColumnName = "Page" }).Dispose();

        Assert.All(progress.Cast<PpoProgress>(), p => Assert.InRange(p.PretrainingLoss!.Value, 0.1, 4));
        Assert.Equal(
            "Could not find pretraining text column 'Page' (Parameter 'inputSchema')",
            Assert.Throws<ArgumentOutOfRangeException>(() => Fit(
                (_, _) => 0, Options with { PretrainingData = Documents, PretrainingTextColumnName = "Page" })).Message);
    }

    [Theory]
    [InlineData(ValueFunction.Network)]
    [InlineData(ValueFunction.SharedTrunk)]
    public void A_trained_policy_outlives_its_value_function(ValueFunction valueFunction)
    {
        using var policy = Fit(Tiny.Reward, Options with { ValueFunction = valueFunction, EmaDecay = 0.5, TargetKl = 1 });

        Assert.Equal(Tiny.Weights(policy).Length, Tiny.Weights(Tiny.Model).Length);
        Assert.NotEqual(Tiny.Weights(policy), Tiny.Weights(Tiny.Model));
        _ = policy.Generate("the ");
    }

    [Fact]
    public void A_reward_transformer_without_the_score_column_is_an_error_before_the_first_answer()
    {
        var progress = new ProgressRecords();
        var copy = _ml.Transforms.CopyColumns("Copy", "Text").Fit(_ml.Data.LoadFromEnumerable(Tiny.Documents));

        Assert.Equal(
            "The reward transformer gives no column 'Score', but 'Prompt', 'Completion', 'Text', 'Copy'. " +
            "Name the column that holds the score: ml.Rlhf().Rewards.FromTransformer(reward, \"…\").",
            Assert.Throws<ArgumentException>(
                () => Fit(copy, Options with { Progress = progress })).Message);
        Assert.Empty(progress);
    }

    [Theory]
    [InlineData("Text", "String")]
    [InlineData("Vector", "Vector<Single, 2>")]
    [InlineData("Whole", "Int32")]
    public void A_score_that_is_no_single_number_is_an_error_before_the_first_answer(string column, string type)
    {
        var progress = new ProgressRecords();
        var transformer = _ml.Transforms.CustomMapping<Document, NoScores>((_, _) => { }, null).Fit(Documents);
        var options = Options with { Progress = progress };

        Assert.Equal(
            $"Column '{column}' of the reward transformer is {type}, but a score is a single number: Single, Double or Boolean. " +
            "Name the column that holds the score: ml.Rlhf().Rewards.FromTransformer(reward, \"…\"), or convert it with ml.Transforms.Conversion.ConvertType.",
            Assert.Throws<ArgumentException>(() => Fit(transformer, options, column)).Message);
        Assert.Empty(progress);
    }

    [Theory]
    [InlineData("AsSingle")]
    [InlineData("AsDouble")]
    [InlineData("AsBoolean")]
    public void A_score_may_be_a_single_a_double_or_a_boolean(string column)
    {
        var progress = new ProgressRecords();
        var transformer = _ml.Transforms.CustomMapping<Document, Scores>(
            (_, scores) => (scores.AsSingle, scores.AsDouble, scores.AsBoolean) = (1, 1, true), null).Fit(Documents);

        Fit(transformer, Options with { Progress = progress }, column).Dispose();

        Assert.Equal([1, 1], progress.Cast<PpoProgress>().Select(p => p.Score));
    }

    [Fact]
    public void A_reward_transformer_that_needs_another_column_is_an_error_that_says_what_there_is()
    {
        var rows = _ml.Data.LoadFromEnumerable(new[] { new Labeled { Text = "a", Label = "good" } });
        var needsLabel = _ml.Transforms.Conversion.MapValueToKey("Label").Fit(rows);

        Assert.Equal(
            "The reward transformer does not fit the columns that it is given (Prompt, Completion, and Text, which is the completion): " +
            "Could not find input column 'Label' (Parameter 'inputSchema') " +
            "Put ml.Transforms.CopyColumns in front of it, or leave out the steps that need a label.",
            Assert.Throws<ArgumentException>(() => Fit(needsLabel, Options)).Message);
    }

    [Theory]
    [InlineData(float.NaN, "NaN")]
    [InlineData(float.PositiveInfinity, "Infinity")]
    public void A_reward_that_is_not_finite_is_an_error(float score, string text)
    {
        Assert.Equal(
            $"The reward of an episode is {text}, but rewards must be finite numbers. " +
            "Check the reward model or function for empty and unusual responses.",
            Assert.Throws<InvalidOperationException>(() => Fit((_, _) => score, Options)).Message);
    }

    [Fact]
    public void What_a_reward_function_throws_comes_through()
    {
        Assert.Equal("No idea.", Assert.Throws<NotSupportedException>(
            () => Fit((_, _) => throw new NotSupportedException("No idea."), Options)).Message);
    }

    [Fact]
    public void A_reward_model_of_a_shorter_context_is_an_error()
    {
        using var small = Tiny.Train(architecture: Tiny.Architecture with { ContextLength = 24 });
        using var reward = Tiny.TrainReward(small);

        Assert.Equal(
            "The reward model's context is 24 tokens, shorter than the policy's 32. " +
            "Train the reward model from the same model as the policy.",
            Assert.Throws<ArgumentException>(() => Fit(reward, Options)).Message);
    }

    [Fact]
    public void A_reward_model_of_another_tokenizer_scores_the_text()
    {
        using var bytes = Tiny.Train(TextTokenizer.FromBytes());
        using var reward = Tiny.TrainReward(bytes);
        var progress = new ProgressRecords();

        Fit(reward, Options with { Progress = progress }).Dispose();

        Assert.All(progress.Cast<PpoProgress>(), p => Assert.InRange(p.Score, -10, 10));
    }

    [Fact]
    public void Prompts_that_leave_no_room_are_left_out_and_counted()
    {
        var ml = new MLContext(seed: 1);
        var warnings = ml.Warnings();

        ml.Rlhf().Trainers.Ppo(Tiny.Model, (_, _) => 0, Options).Fit(ml.View(new string('a', 27), new string('a', 28), "cat")).Dispose();

        Assert.Equal(
        [
            "1 of 3 prompts leave no room for 5 response tokens in the context of 32, and were left out. " +
            "Shorten them, lower MaxResponseTokens, or use a model with a longer context.",
        ], warnings);
    }

    private IDataView Prompts => _ml.Data.LoadFromEnumerable(Tiny.Prompts);

    private IDataView Documents => _ml.Data.LoadFromEnumerable(Tiny.Documents);

    private TextGenerationTransformer Fit(Func<string, string, float> reward, PpoOptions options) =>
        _ml.Rlhf().Trainers.Ppo(Tiny.Model, reward, options).Fit(Prompts);

    private TextGenerationTransformer Fit(ITransformer reward, PpoOptions options, string scoreColumn = "Score") =>
        _ml.Rlhf().Trainers.Ppo(Tiny.Model, _ml.Rlhf().Rewards.FromTransformer(reward, scoreColumn), options).Fit(Prompts);

    private ITransformer Classifier()
    {
        var rows = Enumerable.Range(0, 40).Select(i => new Review { Text = i % 2 == 0 ? "the cat sat" : "xyz qqq", Label = i % 2 == 0 });
        return _ml.Transforms.Text.FeaturizeText("Features", "Text")
            .Append(_ml.BinaryClassification.Trainers.SdcaLogisticRegression(maximumNumberOfIterations: 5))
            .Fit(_ml.Data.LoadFromEnumerable(rows));
    }

    /// <summary>Says of itself that it does not map row to row, as filters do.</summary>
    private sealed class DroppingTransformer(ITransformer inner) : ITransformer
    {
        public bool IsRowToRowMapper => false;
        public DataViewSchema GetOutputSchema(DataViewSchema inputSchema) => inner.GetOutputSchema(inputSchema);
        public IRowToRowMapper GetRowToRowMapper(DataViewSchema inputSchema) => inner.GetRowToRowMapper(inputSchema);
        public IDataView Transform(IDataView input) => inner.Transform(input);
        void ICanSaveModel.Save(ModelSaveContext ctx) => throw new NotSupportedException();
    }

    private sealed class Review
    {
        public string Text { get; set; } = "";
        public bool Label { get; set; }
    }

    private sealed class Labeled
    {
        public string Text { get; set; } = "";
        public string Label { get; set; } = "";
    }

    private sealed class Scores
    {
        public float AsSingle { get; set; }
        public double AsDouble { get; set; }
        public bool AsBoolean { get; set; }
    }

    private sealed class NoScores
    {
        [VectorType(2)]
        public float[] Vector { get; set; } = [];
        public int Whole { get; set; }
    }
}
