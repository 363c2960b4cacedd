using Microsoft.ML;
using Microsoft.ML.Data;

namespace ML.Rlhf.Tests.RewardModel;

public sealed class RewardTransformerTests
{
    private static readonly Demonstration[] s_answers = [.. Enumerable.Range(0, 150).Select(i => new Demonstration
    {
        Prompt = new string('a', i % 7),
        Completion = new string((char)('b' + i % 20), i % 23),
    })];

    private readonly MLContext _ml = new(seed: 1);

    [Fact]
    public void A_pipeline_gives_what_Score_gives_for_each_answer_alone()
    {
        var data = _ml.Data.LoadFromEnumerable(s_answers);

        var column = Tiny.Reward.Transform(data).GetColumn<float>("Score").ToList();
        var together = Tiny.Reward.Score([.. s_answers.Select(a => (a.Prompt, a.Completion))]);

        Assert.Equal(s_answers.Length, column.Count);
        for (int i = 0; i < column.Count; i++)
        {
            Assert.Equal(Tiny.Reward.Score(s_answers[i].Prompt, s_answers[i].Completion), column[i], 1e-4);
            Assert.Equal(together[i], column[i], 1e-4);
        }
        Assert.InRange(column.Select(score => MathF.Round(score, 3)).Distinct().Count(), 100, 150);
    }

    [Fact]
    public void The_first_score_waits_for_one_batch_and_a_cursor_never_reads_more_than_eight_ahead()
    {
        const int Batch = 64, Rows = 1000;
        int read = 0;
        IEnumerable<Demonstration> Counted()
        {
            for (int i = 0; i < Rows; i++, read++)
                yield return s_answers[i % s_answers.Length];
        }
        var scored = Tiny.Reward.Transform(_ml.Data.LoadFromEnumerable(Counted()));
        var expected = Tiny.Reward.Score([.. s_answers.Select(a => (a.Prompt, a.Completion))]);
        using var cursor = scored.GetRowCursor(scored.Schema);
        var score = cursor.GetGetter<float>(scored.Schema["Score"]);
        var completion = cursor.GetGetter<ReadOnlyMemory<char>>(scored.Schema["Completion"]);

        int most = 0, row = 0;
        for (; cursor.MoveNext(); row++)
        {
            float value = 0;
            ReadOnlyMemory<char> text = default;
            score(ref value);
            completion(ref text);
            most = row == 0 ? read : Math.Max(most, read - row);
            Assert.Equal(expected[row % s_answers.Length], value, 1e-4);
            Assert.Equal(s_answers[row % s_answers.Length].Completion, text.ToString());
            if (row == 0)
                Assert.InRange(read, Batch - 1, Batch + 1); // the enumerator may stand one row further
        }

        Assert.Equal(Rows, row);
        Assert.InRange(most, 4 * Batch, 8 * Batch + 1); // and it does look ahead
    }

    [Fact]
    public void A_score_does_not_depend_on_the_answers_beside_it()
    {
        float alone = Tiny.Reward.Score("cat", "meow");
        (string, string) answer = ("cat", "meow"), longAnswer = ("cat", new string('z', 28));

        Assert.Equal(alone, Tiny.Reward.Score([answer, longAnswer])[0], 1e-4);
        Assert.Equal(alone, Tiny.Reward.Score([.. Enumerable.Repeat(longAnswer, 40), answer])[40], 1e-4);
        Assert.All(Tiny.Reward.Score([.. Enumerable.Repeat(answer, 70)]), score => Assert.Equal(alone, score, 1e-4));
    }

    [Fact]
    public void Empty_texts_have_a_score()
    {
        Assert.True(float.IsFinite(Tiny.Reward.Score("cat", "")));
        Assert.True(float.IsFinite(Tiny.Reward.Score("", "")));
        Assert.NotEqual(Tiny.Reward.Score("cat", "meow"), Tiny.Reward.Score("cat", ""));
        Assert.Empty(Tiny.Reward.Score([]));
    }

    [Fact]
    public void Preferences_have_their_chosen_answers_scored()
    {
        var scores = Tiny.Reward.Transform(_ml.Data.LoadFromEnumerable(Tiny.Preferences)).GetColumn<float>("Score").ToList();

        Assert.Equal(Tiny.Preferences.Length, scores.Count);
        for (int i = 0; i < scores.Count; i++)
            Assert.Equal(Tiny.Reward.Score(Tiny.Preferences[i].Prompt, Tiny.Preferences[i].Chosen), scores[i], 1e-4);
    }

    [Fact]
    public void A_completion_is_scored_also_where_there_is_a_chosen_answer()
    {
        var data = _ml.Data.LoadFromEnumerable(new[] { new Both { Prompt = "cat", Chosen = "purr", Completion = "meow" } });

        Assert.Equal(Tiny.Reward.Score("cat", "meow"), Tiny.Reward.Transform(data).GetColumn<float>("Score").Single(), 1e-4);
    }

    [Fact]
    public void Without_a_completion_or_a_prompt_the_missing_column_is_named()
    {
        Assert.Equal("Could not find completion column 'Completion' (Parameter 'inputSchema')",
            Assert.Throws<ArgumentOutOfRangeException>(() => Tiny.Reward.Transform(_ml.View("cat"))).Message);
        Assert.Equal("Could not find prompt column 'Prompt' (Parameter 'inputSchema')",
            Assert.Throws<ArgumentOutOfRangeException>(() => Tiny.Reward.Transform(_ml.Data.LoadFromEnumerable(Tiny.Documents))).Message);
    }

    [Fact]
    public void A_prediction_engine_scores_an_answer()
    {
        using var engine = _ml.Model.CreatePredictionEngine<Demonstration, ScoredCompletion>(
            Tiny.Reward, new PredictionEngineOptions { OwnsTransformer = false });

        Assert.Equal(Tiny.Reward.Score("cat", "meow"), engine.Predict(new() { Prompt = "cat", Completion = "meow" }).Score, 1e-4);
        Assert.Equal(Tiny.Reward.Score("dog", ""), engine.Predict(new() { Prompt = "dog" }).Score, 1e-4);
    }

    [Fact]
    public void Whoever_asks_for_other_columns_never_runs_the_model_and_after_Dispose_nobody_can()
    {
        var model = Tiny.TrainReward(Tiny.Model);
        var transformed = model.Transform(_ml.Data.LoadFromEnumerable(Tiny.Demonstrations));
        model.Dispose();

        Assert.Equal(8, transformed.GetColumn<string>("Prompt").Count());
        Action[] uses =
        [
            () => model.Score("cat", "meow"),
            () => transformed.GetColumn<float>("Score").ToList(),
            () => _ = model.Module,
            () => _ml.Model.Save(model, null, Stream.Null),
            () => _ml.Rlhf().Trainers.Ppo(Tiny.Model, model, new PpoOptions { MaxResponseTokens = 4 }).Fit(_ml.View("cat")),
        ];
        Assert.All(uses, use => Assert.StartsWith(
            "The model was disposed, and cannot be used any more.",
            Assert.IsType<ObjectDisposedException>(Assert.ThrowsAny<Exception>(use).GetBaseException()).Message));
    }

    [Fact]
    public void An_answer_that_does_not_fit_is_an_error_that_names_it()
    {
        string completion = new('b', 28);

        Assert.True(float.IsFinite(Tiny.Reward.Score("cat", completion)));
        Assert.Equal(
            "The prompt 'cats' with its answer has 33 tokens, but the reward model's context is 32. " +
            "Shorten them, or train the reward model from a model with a longer context. (Parameter 'completion')",
            Assert.Throws<ArgumentException>(() => Tiny.Reward.Score("cats", completion)).Message);
    }

    [Fact]
    public void Eight_threads_at_once_get_what_one_gets()
    {
        (string, string)[] answers = [.. s_answers.Select(a => (a.Prompt, a.Completion))];
        var expected = Tiny.Reward.Score(answers);

        var scores = new IReadOnlyList<float>[8];
        Gpt.TextGenerationTransformerTests.RunOnThreads(8, thread => scores[thread] = Tiny.Reward.Score(answers));

        Assert.All(scores, score => Assert.Equal(expected, score));
    }

    [Fact]
    public void Scoring_leaves_no_tensors()
    {
        Tiny.Reward.Score("cat", "meow");
        long before = TorchSharp.DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;

        Tiny.Reward.Score("cat", "meow");

        Assert.Equal(before, TorchSharp.DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount);
    }

    private sealed class Both
    {
        public string Prompt { get; set; } = "";
        public string Chosen { get; set; } = "";
        public string Completion { get; set; } = "";
    }
}
