using Microsoft.ML;
using Microsoft.ML.Data;

namespace ML.Rlhf.Tests.Gpt;

public sealed class TextGenerationTransformerTests
{
    /// <summary>Rows that a cursor reads ahead, and the model completes at once.</summary>
    private const int BatchSize = 64;

    private readonly MLContext _ml = new(seed: 1);

    [Fact]
    public void A_pipeline_gives_what_Generate_gives_for_each_prompt_alone()
    {
        string[] prompts = [.. RandomPrompts(2 * BatchSize + 5)];

        var column = Tiny.Model.Transform(_ml.View(prompts)).GetColumn<string>("Completion").ToList();

        Assert.Equal(prompts.Select(prompt => Tiny.Model.Generate(prompt)), column);
        Assert.Equal(Tiny.Model.Generate(prompts), column);
        Assert.InRange(column.Distinct().Count(), BatchSize, column.Count);
    }

    [Fact]
    public void A_prompt_gets_the_same_completion_wherever_it_stands()
    {
        string[] prompts = [.. RandomPrompts(BatchSize + 10)];
        var expected = prompts.ToDictionary(prompt => prompt, prompt => Tiny.Model.Generate(prompt));
        var view = _ml.View(prompts);

        IDataView[] views =
        [
            _ml.Data.ShuffleRows(view, seed: 5),
            _ml.Data.FilterByCustomPredicate<PromptOnly>(view, row => row.Prompt.Length % 2 == 0),
            _ml.Data.SkipRows(view, 33),
            _ml.Data.Cache(view),
            _ml.View([.. prompts.Reverse(), .. prompts]),
        ];
        foreach (var data in views)
        {
            var rows = _ml.Data.CreateEnumerable<Generated>(Tiny.Model.Transform(data), reuseRowObject: false).ToList();
            Assert.NotEmpty(rows);
            Assert.All(rows, row => Assert.Equal(expected[row.Prompt!], row.Completion));
        }

        var shuffledAfter = _ml.Data.ShuffleRows(Tiny.Model.Transform(view), seed: 5);
        Assert.All(
            _ml.Data.CreateEnumerable<Generated>(shuffledAfter, reuseRowObject: false),
            row => Assert.Equal(expected[row.Prompt!], row.Completion));
    }

    [Fact]
    public void Another_seed_gives_another_completion_and_the_same_one_the_same()
    {
        var sampling = new SamplingOptions { MaxNewTokens = 20, Seed = 3 };

        Assert.Equal(Tiny.Model.Generate("cat", sampling), Tiny.Model.Generate("cat", sampling with { }));
        Assert.NotEqual(Tiny.Model.Generate("cat", sampling), Tiny.Model.Generate("cat", sampling with { Seed = 4 }));
    }

    [Fact]
    public void Temperature_0_ignores_the_seed()
    {
        var greedy = new SamplingOptions { Temperature = 0, MaxNewTokens = 20 };

        Assert.Equal(Tiny.Model.Generate("cat", greedy), Tiny.Model.Generate("cat", greedy with { Seed = 9 }));
        Assert.Equal(Tiny.Model.Generate("cat", greedy), Tiny.Model.Generate("cat", greedy with { Temperature = 1, TopK = 1, Seed = 9 }));
    }

    [Fact]
    public void A_completion_has_at_most_the_tokens_asked_for_and_ends_with_the_context()
    {
        Assert.All(RandomPrompts(20), prompt => Assert.InRange(Tiny.Model.Generate(prompt, new() { MaxNewTokens = 3 }).Length, 0, 3));
        Assert.InRange(Tiny.Model.Generate(new string('a', 30), new() { MaxNewTokens = 1000 }).Length, 0, 2);
        Assert.Empty(Tiny.Model.Generate([]));
    }

    [Fact]
    public void Whoever_asks_for_other_columns_never_runs_the_model()
    {
        var model = Tiny.Model.WithSampling(Tiny.Model.Sampling);
        var transformed = model.Transform(_ml.View("cat", "dog"));
        model.Dispose(); // a model that runs would now throw

        Assert.Equal(["cat", "dog"], transformed.GetColumn<string>("Prompt"));
        Assert.Throws<ObjectDisposedException>(() => transformed.GetColumn<string>("Completion").First());
    }

    [Fact]
    public void Columns_that_nobody_asks_for_are_not_read()
    {
        var data = _ml.Data.LoadFromEnumerable(new[] { new Demonstration { Prompt = "cat" } });
        var pipeline = _ml.Transforms.CustomMapping<Demonstration, Expensive>(
            (_, _) => throw new InvalidOperationException("It was read."), null);
        var transformed = Tiny.Model.Transform(pipeline.Fit(data).Transform(data));

        Assert.Single(transformed.GetColumn<string>("Completion").ToList());
        Assert.Throws<InvalidOperationException>(() => transformed.GetColumn<float>("Number").ToList());
    }

    /// <summary>The tokenizer throws at a character that it does not know: so an error shows which rows the model was run on.</summary>
    [Fact]
    public void Reading_one_row_completes_one_batch_of_rows()
    {
        string[] rows = [.. Enumerable.Repeat("cat", BatchSize)];

        Assert.Equal(Tiny.Model.Generate("cat"), FirstCompletion([.. rows, "1"]));
        var error = Assert.ThrowsAny<Exception>(() => FirstCompletion([.. rows[1..], "1"])).GetBaseException();
        Assert.StartsWith("Character '1' (U+0031)", error.Message);

        string FirstCompletion(string[] prompts) => Tiny.Model.Transform(_ml.View(prompts)).GetColumn<string>("Completion").First();
    }

    [Fact]
    public void Reading_one_row_reads_one_batch_of_rows()
    {
        int read = 0;
        var endless = _ml.Data.LoadFromEnumerable(Endless());

        Assert.Equal(3, Tiny.Model.Transform(endless).GetColumn<string>("Completion").Take(3).Count());
        Assert.InRange(read, BatchSize, BatchSize + 1);

        IEnumerable<PromptOnly> Endless()
        {
            while (true)
            {
                read++;
                yield return new PromptOnly { Prompt = "cat" };
            }
        }
    }

    [Fact]
    public void A_prediction_engine_completes_a_prompt()
    {
        using var engine = _ml.Model.CreatePredictionEngine<PromptOnly, Generated>(
            Tiny.Model, new PredictionEngineOptions { OwnsTransformer = false });

        var answer = engine.Predict(new() { Prompt = "cat" });

        Assert.Equal(("cat", Tiny.Model.Generate("cat")), (answer.Prompt, answer.Completion));
        Assert.Equal(Tiny.Model.Generate("dog"), engine.Predict(new() { Prompt = "dog" }).Completion);
    }

    [Fact]
    public void A_prediction_engine_works_on_a_chain()
    {
        var data = _ml.View("CAT");
        var chain = _ml.Transforms.Text.NormalizeText("Prompt").Fit(data)
            .Append(Tiny.Model.WithSampling(Tiny.Model.Sampling))
            .Append(_ml.Transforms.Text.NormalizeText("Completion", keepPunctuations: false).Fit(Tiny.Model.Transform(_ml.View("cat"))));
        using var engine = _ml.Model.CreatePredictionEngine<PromptOnly, Generated>(chain);

        Assert.Equal(Tiny.Model.Generate("cat").Replace(".", ""), engine.Predict(new() { Prompt = "CAT" }).Completion);
    }

    [Fact]
    public void A_prompt_that_fills_the_context_is_an_error_that_names_it()
    {
        const string Message =
            "The prompt 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' has 32 tokens, but the model's context is 32 tokens " +
            "and must hold the completion too. Shorten the prompt, set SamplingOptions.TruncatePrompts to keep its end, " +
            "or use a model with a longer context. (Parameter 'prompt')";
        string prompt = new('a', 32);

        Assert.Equal(Message, Assert.Throws<ArgumentException>(() => Tiny.Model.Generate(prompt)).Message);
        Assert.Equal(Message, Assert.Throws<ArgumentException>(() => Tiny.Model.Generate(["cat", prompt])).Message);
        Assert.Equal(Message, Assert.ThrowsAny<Exception>(
            () => Tiny.Model.Transform(_ml.View("cat", prompt)).GetColumn<string>("Completion").ToList()).GetBaseException().Message);
        Assert.InRange(Tiny.Model.Generate(prompt[1..]).Length, 0, 1);

        Assert.StartsWith(
            "The prompt 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…' has 50 tokens",
            Assert.Throws<ArgumentException>(() => Tiny.Model.Generate(new string('a', 50))).Message);
    }

    [Fact]
    public void A_prompt_that_is_too_long_can_be_cut_at_its_beginning()
    {
        var cut = Tiny.Model.Sampling with { TruncatePrompts = true };
        string end = "the cat ran on the mat and sat."; // 31 tokens

        using var model = Tiny.Model.WithSampling(cut);

        Assert.Equal(Tiny.Model.Generate(end), model.Generate("some more words, which are lost. ".Replace(",", "") + end));
        Assert.Equal([Tiny.Model.Generate(end)], model.Transform(_ml.View("lost " + end)).GetColumn<string>("Completion"));
    }

    [Fact]
    public void An_unknown_character_is_named()
    {
        string message = Assert.Throws<ArgumentException>(() => Tiny.Model.Generate("the cats: 12")).Message;

        Assert.StartsWith(
            "Character ':' (U+003A) at position 8, after \"the cats\", is not among the 28 characters of this tokenizer. ", message);
    }

    [Fact]
    public void Cancelling_stops_generation()
    {
        Assert.Throws<OperationCanceledException>(() => Tiny.Model.Generate("cat", null, new CancellationToken(canceled: true)));
    }

    [Fact]
    public void Other_sampling_shares_the_weights_and_each_is_disposed_on_its_own()
    {
        var first = Tiny.Train();
        var second = first.WithSampling(first.Sampling with { Seed = 5 });
        string expected = second.Generate("cat");

        Assert.Same(first.Module, second.Module);
        Assert.Equal((5, first.PromptColumnName), (second.Sampling.Seed, second.PromptColumnName));
        var weight = first.Module.parameters().First();

        first.Dispose();
        first.Dispose();
        Assert.Equal(expected, second.Generate("cat"));
        Assert.False(weight.IsInvalid);

        second.Dispose();
        Assert.True(weight.IsInvalid);
    }

    [Fact]
    public void After_Dispose_every_use_is_an_error_that_names_the_usual_reason()
    {
        var model = Tiny.Train();
        var transformed = model.Transform(_ml.View("cat"));
        _ml.Model.CreatePredictionEngine<PromptOnly, Generated>(model).Dispose(); // which disposes the model

        Action[] uses =
        [
            () => model.Generate("cat"),
            () => model.Generate(["cat", "dog"]),
            () => transformed.GetColumn<string>("Completion").ToList(),
            () => model.WithSampling(new SamplingOptions()),
            () => _ = model.Module,
            () => _ml.Model.Save(model, null, Stream.Null),
            () => _ml.Rlhf().Trainers.SupervisedFineTuning(model).Fit(_ml.Data.LoadFromEnumerable(Tiny.Demonstrations)),
            () => _ml.Rlhf().Trainers.RewardModel(model).Fit(_ml.Data.LoadFromEnumerable(Tiny.Preferences)),
            () => _ml.Rlhf().Trainers.Ppo(model, Tiny.Reward, new PpoOptions { MaxResponseTokens = 4 }).Fit(_ml.View("cat")),
        ];
        Assert.All(uses, use => Assert.Equal(
            "The model was disposed, and cannot be used any more. A PredictionEngine disposes its transformer, too, unless " +
            "PredictionEngineOptions.OwnsTransformer is false.",
            Assert.IsType<ObjectDisposedException>(Assert.ThrowsAny<Exception>(use).GetBaseException()).Message));
    }

    [Fact]
    public void Eight_threads_at_once_get_what_one_gets()
    {
        string[] prompts = [.. RandomPrompts(40)];
        var expected = prompts.Select(prompt => Tiny.Model.Generate(prompt)).ToArray();

        var answers = new string[8][];
        RunOnThreads(8, thread => answers[thread] = thread % 2 == 0
            ? [.. prompts.Select(prompt => Tiny.Model.Generate(prompt))]
            : [.. Tiny.Model.Transform(_ml.View(prompts)).GetColumn<string>("Completion")]);

        Assert.All(answers, answer => Assert.Equal(expected, answer));
    }

    [Fact]
    public void Generating_leaves_no_tensors()
    {
        string[] prompts = [.. RandomPrompts(10)];
        Tiny.Model.Generate(prompts);
        long before = TorchSharp.DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;

        Tiny.Model.Generate(prompts);
        Tiny.Model.Generate(prompts, new SamplingOptions { Temperature = 0.5f, TopK = 5, TopP = 0.9f });

        Assert.Equal(before, TorchSharp.DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount);
    }

    private static IEnumerable<string> RandomPrompts(int count)
    {
        var random = new Random(1);
        return Enumerable.Range(0, count).Select(_ => random.GetString("abcdefghijklmnopqrstuvwxyz", random.Next(1, 20)));
    }

    internal static void RunOnThreads(int count, Action<int> work)
    {
        var failures = new System.Collections.Concurrent.ConcurrentBag<Exception>();
        var threads = Enumerable.Range(0, count).Select(i => new Thread(() =>
        {
            try
            {
                work(i);
            }
            catch (Exception e)
            {
                failures.Add(e);
            }
        })).ToArray();
        Array.ForEach(threads, thread => thread.Start());
        Array.ForEach(threads, thread => thread.Join());
        Assert.Empty(failures);
    }

    private sealed class Expensive
    {
        public float Number { get; set; }
    }
}
