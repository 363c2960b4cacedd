using Microsoft.ML;
using Microsoft.ML.Data;
using ML.Rlhf.Bridge;

namespace ML.Rlhf.Tests.RewardModel;

/// <summary>Reward models from K ranked answers, from weighted rows and rows with margins.</summary>
public sealed class RankingTests
{
    /// <summary>Longer is better; "no" is worst.</summary>
    private static readonly Ranking[] s_rankings = [.. Tiny.Demonstrations.Select(d => new Ranking
    {
        Prompt = d.Prompt,
        Answers = ["no", d.Completion, d.Completion + " " + d.Completion],
        Ranks = [3, 2, 1],
    })];

    private readonly MLContext _ml = new(seed: 1);

    [Fact]
    public void It_learns_the_order_of_ranked_answers()
    {
        using var model = Trainer(new() { Epochs = 60, LearningRate = 3e-3 }).Fit(Data(s_rankings));

        var metrics = _ml.Rlhf().EvaluateRewardModel(
            model, Data(s_rankings), answersColumnName: "Answers", ranksColumnName: "Ranks");

        Assert.Equal((8, 24, 1.0), (metrics.PromptCount, metrics.PairCount, metrics.Accuracy));
        Assert.True(metrics.MeanChosenScore > metrics.MeanRejectedScore);
    }

    [Fact]
    public void Two_ranked_answers_are_a_pair()
    {
        var pairs = Tiny.Preferences.Select(p => new Ranking { Prompt = p.Prompt, Answers = [p.Chosen, p.Rejected], Ranks = [1, 2] });

        Assert.Equal(
            Tiny.Weights(_ml.Rlhf().Trainers.RewardModel(Tiny.Model).Fit(Data(Tiny.Preferences))),
            Tiny.Weights(Trainer().Fit(Data(pairs))));
    }

    [Fact]
    public void Ranks_of_any_number_type_and_ratings_mean_the_same()
    {
        var expected = Tiny.Weights(Trainer().Fit(Data(s_rankings)));

        Assert.Equal(expected, Tiny.Weights(Trainer().Fit(Data(
            s_rankings.Select(r => new Rows<int> { Prompt = r.Prompt, Answers = r.Answers, Ranks = [30, 20, 10] })))));
        Assert.Equal(expected, Tiny.Weights(Trainer().Fit(Data(
            s_rankings.Select(r => new Rows<long> { Prompt = r.Prompt, Answers = r.Answers, Ranks = [3, 2, 1] })))));
        Assert.Equal(expected, Tiny.Weights(Trainer(new() { RanksColumnName = null, RatingsColumnName = "Ranks" }).Fit(Data(
            s_rankings.Select(r => new Rows<double> { Prompt = r.Prompt, Answers = r.Answers, Ranks = [-0.5, 0, 1e9] })))));
    }

    [Fact]
    public void Prompts_without_a_pair_are_left_out_and_counted()
    {
        var ml = new MLContext(seed: 1);
        var warnings = ml.Warnings();
        Ranking[] useless =
        [
            new() { Prompt = "cat", Answers = ["meow", "purr"], Ranks = [1, 1] },
            new() { Prompt = "cat", Answers = ["meow", "meow"], Ranks = [1, 2] },
            new() { Prompt = "cat", Answers = ["meow"], Ranks = [1] },
            new() { Prompt = "cat" },
        ];

        using var model = Trainer(ml: ml).Fit(ml.Data.LoadFromEnumerable(useless.Concat(s_rankings)));

        Assert.Equal(
            ["4 of 12 preferences rank no answer above a different one, as far as the context shows them, and were left out."], warnings);
        Assert.Equal(Tiny.Weights(Trainer().Fit(Data(s_rankings))), Tiny.Weights(model));
    }

    [Fact]
    public void When_no_prompt_has_a_pair_the_error_says_so()
    {
        Ranking tie = new() { Prompt = "cat", Answers = ["meow", "purr"], Ranks = [1, 1] };
        Ranking tooLong = new() { Prompt = new string('a', 40), Answers = ["meow", "purr"], Ranks = [1, 2] };
        string Error(params Ranking[] rows) => Assert.Throws<InvalidOperationException>(() => Trainer().Fit(Data(rows))).Message;

        Assert.Equal(
            "None of the 2 rows of the data can be used as preferences: 2 rank no answer above a different one, as far as the context " +
            "shows them. Check what the columns hold.", Error(tie, tie));
        Assert.Equal(
            "None of the 2 rows of the data can be used as preferences: 1 rank no answer above a different one, as far as the context " +
            "shows them, and the prompts of 1 fill the model's context. Check what the columns hold.", Error(tie, tooLong));
        Assert.EndsWith("do not fit the model's context. Shorten the texts, or use a model with a longer context.", Error(tooLong));
    }

    [Fact]
    public void The_score_of_ranked_answers_is_a_vector_also_in_a_pipeline_and_from_a_file()
    {
        var pipeline = _ml.Transforms.Text.NormalizeText("Prompt").Append(Trainer()).Append(_ml.Transforms.CopyColumns("Copy", "Score"));
        var promised = pipeline.GetOutputSchema(Schemas.Shape(Data(s_rankings).Schema)).Single(column => column.Name == "Score");
        var chain = pipeline.Fit(Data(s_rankings));
        var stream = new MemoryStream();
        _ml.Model.Save(chain, null, stream);

        var loaded = new MLContext().Model.Load(stream, out _);
        var scores = loaded.Transform(Data(s_rankings)).GetColumn<float[]>("Copy").ToArray();

        Assert.Equal((SchemaShape.Column.VectorKind.VariableVector, NumberDataViewType.Single), (promised.Kind, promised.ItemType));
        var model = chain.OfType<RewardTransformer>().Single();
        for (int i = 0; i < 8; i++)
            Assert.Equal(s_rankings[i].Answers.Select(a => model.Score(s_rankings[i].Prompt, a)), scores[i], new Near());
        using var engine = _ml.Model.CreatePredictionEngine<Demonstration, ScoredCompletion>(
            model, new PredictionEngineOptions { OwnsTransformer = false });
        Assert.Equal(model.Score("cat", "meow"), engine.Predict(new() { Prompt = "cat", Completion = "meow" }).Score, 1e-4);
    }

    [Theory]
    [InlineData("Answers", "Could not find answers column 'Answers' (Parameter 'inputSchema')")]
    [InlineData("Ranks", "Could not find ranks column 'Ranks' (Parameter 'inputSchema')")]
    public void A_missing_column_is_named(string column, string message)
    {
        var data = _ml.Transforms.DropColumns(column).Fit(Data(s_rankings)).Transform(Data(s_rankings));

        Assert.Equal(message, Assert.Throws<ArgumentOutOfRangeException>(() => Trainer().Fit(data)).Message);
        Assert.Equal(message, Assert.Throws<ArgumentOutOfRangeException>(
            () => Trainer().GetOutputSchema(Schemas.Shape(data.Schema))).Message);
        Assert.Equal(message.Replace("find ", "find validation "), Assert.Throws<ArgumentOutOfRangeException>(
            () => Trainer(new() { ValidationData = data }).Fit(Data(s_rankings))).Message);
    }

    [Fact]
    public void Numbers_that_cannot_be_are_named_with_their_row()
    {
        Ranking good = s_rankings[0];
        string Error(Ranking row) => Assert.Throws<InvalidOperationException>(() => Trainer().Fit(Data([good, row]))).Message;

        Assert.Equal(
            "Row 2 has 3 answers in column 'Answers', but 2 ranks in column 'Ranks'. Give each answer its own.",
            Error(new() { Answers = ["a", "b", "c"], Ranks = [1, 2] }));
        Assert.Equal(
            "Row 2 has NaN among the ranks in column 'Ranks'. Leave the answer out, or rank it.",
            Error(new() { Answers = ["a", "b"], Ranks = [1, float.NaN] }));
    }

    [Theory]
    [InlineData(-1f, 0f, "Row 1 has weight -1 in column 'Weight', but weights are finite numbers of at least 0.")]
    [InlineData(float.NaN, 0f, "Row 1 has weight NaN in column 'Weight', but weights are finite numbers of at least 0.")]
    [InlineData(1f, float.NaN, "Row 1 has margin NaN in column 'Margin', but margins are finite numbers.")]
    public void Weights_and_margins_that_cannot_be_are_named_with_their_row(float weight, float margin, string message)
    {
        Assert.Equal(message, Assert.Throws<InvalidOperationException>(() => Sure([(weight, margin)])).Message);
    }

    [Fact]
    public void A_weight_of_0_leaves_a_row_out_and_a_margin_asks_for_more()
    {
        var all = Sure([.. Enumerable.Repeat((1f, 0f), 8)]);
        using var half = Sure([.. Enumerable.Range(0, 8).Select(i => (i % 2 == 0 ? 2f : 0f, 0f))]);
        using var apart = Sure([.. Enumerable.Repeat((1f, 3f), 8)]);

        var plain = _ml.Rlhf().Trainers.RewardModel(
            Tiny.Model, new() { Epochs = 20, LearningRate = 3e-3, Normalization = ScoreNormalization.None }).Fit(Data(Tiny.Preferences));
        Assert.Equal(Tiny.Weights(plain), Tiny.Weights(all));
        double[] margins = [.. Tiny.Preferences.Select(p => (double)half.Score(p.Prompt, p.Chosen) - half.Score(p.Prompt, p.Rejected))];
        Assert.True(margins.Where((_, i) => i % 2 == 0).Average() > margins.Where((_, i) => i % 2 == 1).Average());
        double Apart(RewardTransformer m) => Tiny.Preferences.Average(p => m.Score(p.Prompt, p.Chosen) - m.Score(p.Prompt, p.Rejected));
        Assert.True(Apart(apart) > Apart(all) + 0.3, $"{Apart(apart)} against {Apart(all)}");
    }

    [Fact]
    public void Demonstrations_average_0_also_after_loading()
    {
        var demonstrations = Data(Tiny.Demonstrations);
        using var model = Trainer(new() { Normalization = ScoreNormalization.Demonstrations, Demonstrations = demonstrations })
            .Fit(Data(s_rankings));
        var stream = new MemoryStream();
        _ml.Model.Save(model, null, stream);

        var loaded = new MLContext().Model.Load(stream, out _);

        Assert.Equal(0, loaded.Transform(demonstrations).GetColumn<float>("Score").Average(), 1e-4f);
        Assert.Equal(1, model.Gain);
        Assert.NotEqual(0, model.Bias);
    }

    [Fact]
    public void Missing_columns_of_the_demonstrations_are_named()
    {
        var trainer = Trainer(new() { Normalization = ScoreNormalization.Demonstrations, Demonstrations = Data(Tiny.Prompts) });

        Assert.Equal("Could not find demonstrations' completion column 'Completion' (Parameter 'inputSchema')",
            Assert.Throws<ArgumentOutOfRangeException>(() => trainer.Fit(Data(s_rankings))).Message);
    }

    [Fact]
    public void Samples_of_the_model_get_mean_0_and_deviation_1_and_are_the_same_for_the_same_seed()
    {
        var options = new RewardModelOptions { Normalization = ScoreNormalization.PolicySamples };
        using var model = Trainer(options).Fit(Data(s_rankings));
        using var again = Trainer(options).Fit(Data(s_rankings));
        using var answers = Trainer().Fit(Data(s_rankings));

        Assert.Equal((model.Gain, model.Bias), (again.Gain, again.Bias));
        Assert.NotEqual(answers.Gain, model.Gain);
        Assert.Equal(Tiny.Weights(answers), Tiny.Weights(model));
    }

    private RewardTransformer Sure((float Weight, float Margin)[] rows) => _ml.Rlhf().Trainers.RewardModel(Tiny.Model, new()
    {
        Epochs = 20,
        LearningRate = 3e-3,
        Normalization = ScoreNormalization.None,
        WeightColumnName = "Weight",
        MarginColumnName = "Margin",
    }).Fit(Data(rows.Select((row, i) => new SurePreference
    {
        Prompt = Tiny.Preferences[i].Prompt,
        Chosen = Tiny.Preferences[i].Chosen,
        Rejected = Tiny.Preferences[i].Rejected,
        Weight = row.Weight,
        Margin = row.Margin,
    })));

    private RewardModelTrainer Trainer(RewardModelOptions? options = null, MLContext? ml = null)
    {
        options ??= new();
        return (ml ?? _ml).Rlhf().Trainers.RewardModel(Tiny.Model, options with
        {
            AnswersColumnName = "Answers",
            RanksColumnName = options.RatingsColumnName is null ? "Ranks" : null,
        });
    }

    private IDataView Data<T>(IEnumerable<T> rows) where T : class => _ml.Data.LoadFromEnumerable(rows);

    private sealed class Rows<T>
    {
        public string Prompt { get; set; } = "";
        public string[] Answers { get; set; } = [];
        public T[] Ranks { get; set; } = [];
    }

    private sealed class SurePreference
    {
        public string Prompt { get; set; } = "";
        public string Chosen { get; set; } = "";
        public string Rejected { get; set; } = "";
        public float Weight { get; set; }
        public float Margin { get; set; }
    }

    private sealed class Near : IEqualityComparer<float>
    {
        public bool Equals(float x, float y) => Math.Abs(x - y) < 1e-4;

        public int GetHashCode(float obj) => 0;
    }
}
