using Microsoft.ML;
using Microsoft.ML.Data;
using ML.Rlhf.Tests.Bridge;
using TorchSharp;

namespace ML.Rlhf.Tests.BestOfN;

public sealed class BestOfNTransformerTests : IDisposable
{
    private static readonly string[] s_prompts =
        [.. Enumerable.Range(0, 150).Select(i => Tiny.Prompts[i % 8].Prompt + new string((char)('a' + i % 26), i % 9))];

    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;
    private readonly MLContext _ml = new(seed: 1);

    private string Zip => Path.Combine(_folder, "model.zip");

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void Best_of_1_is_the_policy_bit_for_bit()
    {
        using var best = BestOf(1);

        Assert.Equal(Tiny.Model.Generate(s_prompts), best.Generate(s_prompts).Select(answer => answer.Completion));
        Assert.Equal(
            Tiny.Model.Transform(_ml.View(s_prompts)).GetColumn<string>("Completion"),
            best.Transform(_ml.View(s_prompts)).GetColumn<string>("Completion"));
        Assert.Equal(0, best.Kl);
    }

    /// <summary>The first answers to a prompt are the same for every n, so one more can only help.</summary>
    [Fact]
    public void More_answers_never_score_lower_and_score_higher_on_average()
    {
        var scores = new[] { 1, 2, 3, 8, 16 }.Select(n =>
        {
            using var best = BestOf(n);
            return best.Generate(s_prompts[..40]).Select(answer => (double)answer.Score).ToArray();
        }).ToList();

        foreach (var (fewer, more) in scores.Zip(scores.Skip(1)))
        {
            Assert.All(fewer.Zip(more), pair => Assert.InRange(pair.Second, pair.First - 1e-5, 100));
            Assert.InRange(more.Average(), fewer.Average() + 0.05, 100);
        }
    }

    [Fact]
    public void The_answers_to_a_prompt_differ_and_a_neighbouring_seed_has_others()
    {
        using var neighbour = Tiny.Model.WithSampling(Tiny.Model.Sampling with { Seed = 1 });

        string[] answers = Answers(Tiny.Model), others = Answers(neighbour);

        Assert.Equal(Tiny.Model.Generate("cat"), answers[0]);
        Assert.InRange(answers.Distinct().Count(), 55, 64);
        Assert.InRange(answers.Intersect(others).Count(), 0, 8); // short ones meet by chance

        static string[] Answers(TextGenerationTransformer model) =>
            [.. model.SampleEpisodes(["cat"], 64).Select(episode => model.Tokenizer.Decode(episode.Response))];
    }

    [Fact]
    public void A_pipeline_gives_what_Generate_gives_for_each_prompt_alone()
    {
        using var best = BestOf(5);

        var rows = _ml.Data.CreateEnumerable<Answer>(best.Transform(_ml.View(s_prompts)), reuseRowObject: false).ToList();

        Assert.Equal(s_prompts.Length, rows.Count);
        for (int i = 0; i < rows.Count; i++)
        {
            var alone = best.Generate(s_prompts[i]);
            Assert.Equal(alone.Completion, rows[i].Completion);
            Assert.Equal(alone.Score, rows[i].Score, 1e-4);
        }
    }

    [Fact]
    public void The_score_is_the_rewards()
    {
        using var ending = Tiny.Model.WithSampling(new SamplingOptions { MaxNewTokens = 25, Temperature = 0.5f });
        using var best = _ml.Rlhf().Transforms.BestOfN(ending, Tiny.Reward, 4, "Reward");

        var rows = best.Transform(_ml.View("cat", "dog", "a"));

        var scores = rows.GetColumn<float>("Reward").ToList();
        var episodes = ending.SampleEpisodes(["cat", "dog", "a"], 4);
        var expected = episodes.Chunk(4).Select(answers => answers.Max(e => Score(e.Prompt, e.Response))).ToList();
        for (int i = 0; i < 3; i++)
            Assert.Equal(expected[i], scores[i], 1e-4);

        static float Score(int[] prompt, int[] response)
        {
            using var noGrad = torch.no_grad();
            using var scope = torch.NewDisposeScope();
            long[] tokens = [.. prompt.Concat(response).Select(token => (long)token)];
            return Tiny.Reward.Use(model => model.Scores(torch.tensor(tokens).unsqueeze(0))[0, tokens.Length - 1].item<float>());
        }
    }

    [Fact]
    public void Reading_both_columns_runs_the_models_once()
    {
        int calls = 0;
        using var best = _ml.Rlhf().Transforms.BestOfN(Tiny.Model, Counting(() => calls++), 3);

        var rows = _ml.Data.CreateEnumerable<Answer>(best.Transform(_ml.View(s_prompts)), reuseRowObject: false).ToList();

        Assert.Equal(3 * s_prompts.Length, calls);
        Assert.All(rows, row => Assert.Equal(row.Completion.Length, row.Score));

        calls = 0;
        using var engine = _ml.Model.CreatePredictionEngine<PromptOnly, Answer>(
            best, new PredictionEngineOptions { OwnsTransformer = false });
        var (cat, dog, again) = (engine.Predict(new() { Prompt = "cat" }), engine.Predict(new() { Prompt = "dog" }),
            engine.Predict(new() { Prompt = "cat" }));
        Assert.Equal((best.Generate("cat").Completion, best.Generate("dog").Completion), (cat.Completion, dog.Completion));
        Assert.Equal((cat.Completion, cat.Score), (again.Completion, again.Score));
        Assert.Equal(3 * (3 + 2), calls); // three predictions, and two calls of Generate
    }

    [Fact]
    public void Whoever_asks_for_other_columns_never_runs_the_models()
    {
        int calls = 0;
        using var best = _ml.Rlhf().Transforms.BestOfN(Tiny.Model, Counting(() => calls++), 3);

        Assert.Equal(["cat", "dog"], best.Transform(_ml.View("cat", "dog")).GetColumn<string>("Prompt"));
        Assert.Equal(0, calls);
    }

    [Fact]
    public void It_adds_a_text_and_a_number_to_what_there_is()
    {
        using var best = BestOf(2);

        var schema = best.Transform(_ml.View("cat")).Schema;

        Assert.Equal(["Prompt", "Completion", "Score"], schema.Select(column => column.Name));
        Assert.Equal(
            (TextDataViewType.Instance, NumberDataViewType.Single), ((DataViewType)schema[1].Type, (DataViewType)schema[2].Type));
        Assert.Equal(("Prompt", "Completion", "Score"), (best.PromptColumnName, best.CompletionColumnName, best.ScoreColumnName));
        Assert.Equal("Could not find prompt column 'Prompt' (Parameter 'inputSchema')", Assert.Throws<ArgumentOutOfRangeException>(
            () => best.Transform(_ml.Data.LoadFromEnumerable(Tiny.Documents))).Message);
    }

    [Fact]
    public void Its_divergence_is_that_of_the_formula()
    {
        using var best = BestOf(16);

        Assert.Equal(1.83508872, best.Kl, 1e-8);
    }

    [Fact]
    public void It_is_disposed_apart_from_its_policy_and_its_reward()
    {
        var policy = Tiny.Train();
        var reward = Tiny.TrainReward(policy);
        var first = _ml.Rlhf().Transforms.BestOfN(policy, reward, 2);
        var second = _ml.Rlhf().Transforms.BestOfN(policy, reward, 2);
        var expected = second.Generate("cat");

        first.Dispose();
        Assert.Throws<ObjectDisposedException>(() => first.Generate("cat"));
        Assert.True(float.IsFinite(reward.Score("cat", policy.Generate("cat"))));
        policy.Dispose();
        reward.Dispose();
        Assert.Equal(expected, second.Generate("cat"));
        second.Dispose();
    }

    [Fact]
    public void Making_using_saving_and_loading_one_leaves_no_tensors()
    {
        Use();
        long before = DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;

        Use();

        Assert.Equal(before, DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount);

        void Use()
        {
            using var best = BestOf(3);
            best.Generate(["cat", "dog"]);
            _ml.Model.Save(best, null, Zip);
            _ml.Rlhf().Models.Load<BestOfNTransformer>(Zip).Dispose();
            Assert.Throws<ArgumentException>(() => _ml.Rlhf().Transforms.BestOfN(Tiny.Model, Tiny.Model, 3)); // no score
        }
    }

    [Fact]
    public void It_comes_back_from_a_file_bit_for_bit()
    {
        using var policy = Tiny.Model.WithSampling(new SamplingOptions { MaxNewTokens = 9, Temperature = 0.9f, Seed = 3 });
        using var best = _ml.Rlhf().Transforms.BestOfN(policy, Tiny.Reward, 6, "Value");
        _ml.Model.Save(best, _ml.View("cat").Schema, Zip);

        using var loaded = Assert.IsType<BestOfNTransformer>(new MLContext().Model.Load(Zip, out _));

        Assert.Equal((6, "Value", best.Kl), (loaded.N, loaded.ScoreColumnName, loaded.Kl));
        Assert.Equal(best.Generate(s_prompts), loaded.Generate(s_prompts));
        Assert.Equal(
            best.Transform(_ml.View(s_prompts)).GetColumn<float>("Value"), loaded.Transform(_ml.View(s_prompts)).GetColumn<float>("Value"));
    }

    [Fact]
    public void A_stock_pipeline_as_a_reward_comes_along()
    {
        using var best = _ml.Rlhf().Transforms.BestOfN(Tiny.Model, StockReward(), 6);
        _ml.Model.Save(best, null, Zip);

        using var loaded = _ml.Rlhf().Models.Load<BestOfNTransformer>(Zip);

        Assert.Equal(best.Generate(s_prompts), loaded.Generate(s_prompts));
        Assert.InRange(best.Generate(s_prompts).Select(answer => answer.Score).Distinct().Count(), 2, s_prompts.Length);
    }

    [Fact]
    public void It_stands_in_a_chain()
    {
        var lower = _ml.Transforms.Text.NormalizeText("Prompt").Fit(_ml.View("CAT"));
        using var best = BestOf(3);
        var chain = new TransformerChain<ITransformer>(lower, best);
        _ml.Model.Save(chain, _ml.View("CAT").Schema, Zip);

        var loaded = new MLContext().Model.Load(Zip, out _);

        Assert.Equal([best.Generate("cat").Completion], loaded.Transform(_ml.View("CAT")).GetColumn<string>("Completion"));
        (loaded as IDisposable)?.Dispose();
    }

    [Fact]
    public void What_does_not_fit_is_an_error_when_it_is_made()
    {
        var transforms = _ml.Rlhf().Transforms;
        using var greedy = Tiny.Model.WithSampling(new SamplingOptions { Temperature = 0 });

        Assert.Throws<ArgumentOutOfRangeException>("n", () => BestOf(0));
        Assert.Equal(
            "The policy samples with temperature 0, so all 4 answers to a prompt would be the same. Pass " +
            "policy.WithSampling(new SamplingOptions { … }) with a temperature above 0. (Parameter 'policy')",
            Assert.Throws<ArgumentException>(() => transforms.BestOfN(greedy, Tiny.Reward, 4)).Message);
        Assert.StartsWith("The reward transformer gives no column 'Score', but 'Prompt', 'Completion', 'Text'.",
            Assert.Throws<ArgumentException>(() => transforms.BestOfN(Tiny.Model, Tiny.Model, 4)).Message);
        Assert.Throws<ArgumentNullException>("policy", () => transforms.BestOfN(null!, Tiny.Reward, 4));
        Assert.Throws<ArgumentNullException>("reward", () => transforms.BestOfN(Tiny.Model, null!, 4));
        Assert.Throws<ArgumentException>("scoreColumnName", () => transforms.BestOfN(Tiny.Model, Tiny.Reward, 4, " "));
    }

    [Fact]
    public void Cancelling_stops_it()
    {
        using var best = BestOf(3);

        Assert.Throws<OperationCanceledException>(() => best.Generate("cat", new CancellationToken(canceled: true)));
    }

    [Fact, Trait("Tier", "Slow")]
    public void A_fresh_process_that_names_nothing_of_the_pack_gives_the_same_answers()
    {
        using var best = BestOf(4);
        _ml.Model.Save(best, _ml.View("cat").Schema, Zip);
        File.WriteAllLines(Path.Combine(_folder, "prompts.txt"), s_prompts);
        string output = Directory.CreateDirectory(Path.Combine(_folder, "out")).FullName;
        Directory.CreateSymbolicLink(Path.Combine(output, "runtimes"), Path.Combine(AppContext.BaseDirectory, "runtimes")); // libtorch

        string printed = FreshProcess.Run(_folder, """
            using Microsoft.ML;

            var ml = new MLContext();
            var model = ml.Model.Load("model.zip", out var schema);
            var data = ml.Data.LoadFromEnumerable(File.ReadLines("prompts.txt").Select(line => new Row { Prompt = line }).ToArray());
            foreach (var row in ml.Data.CreateEnumerable<Result>(model.Transform(data), reuseRowObject: false))
                Console.WriteLine($"{row.Completion}|{BitConverter.SingleToInt32Bits(row.Score):x8}");

            class Row { public string Prompt { get; set; } }
            class Result { public string Completion { get; set; } public float Score { get; set; } }
            """);

        var expected = _ml.Data.CreateEnumerable<Answer>(best.Transform(_ml.View(s_prompts)), reuseRowObject: false)
            .Select(row => $"{row.Completion}|{BitConverter.SingleToInt32Bits(row.Score):x8}");
        Assert.Equal(string.Join('\n', expected).TrimEnd(), printed);
    }

    private BestOfNTransformer BestOf(int n) => _ml.Rlhf().Transforms.BestOfN(Tiny.Model, Tiny.Reward, n);

    /// <summary>Scores an answer by its length, and tells when.</summary>
    private ITransformer Counting(Action count) => _ml.Transforms.CustomMapping<Generated, ScoredCompletion>((row, scored) =>
    {
        count();
        scored.Score = row.Completion.Length;
    }, null).Fit(_ml.Data.LoadFromEnumerable(Tiny.Demonstrations));

    /// <summary>A regression on the letters of an answer.</summary>
    private ITransformer StockReward()
    {
        var rows = Tiny.Demonstrations.Select(d => new Rated { Text = d.Completion, Label = d.Completion.Length }).ToArray();
        var data = _ml.Data.LoadFromEnumerable(rows);
        var features = _ml.Transforms.Text.TokenizeIntoCharactersAsKeys("Characters", "Text")
            .Append(_ml.Transforms.Text.ProduceNgrams("Features", "Characters", ngramLength: 1)).Fit(data);
        var trainer = _ml.Regression.Trainers.LbfgsPoissonRegression(l1Regularization: 0, l2Regularization: 0.1f);
        var regression = trainer.Fit(features.Transform(data));
        return new TransformerChain<ITransformer>(features, regression);
    }

    private sealed class Rated
    {
        public string Text { get; set; } = "";
        public float Label { get; set; }
    }

    private sealed class Answer
    {
        public string Completion { get; set; } = "";
        public float Score { get; set; }
    }
}
