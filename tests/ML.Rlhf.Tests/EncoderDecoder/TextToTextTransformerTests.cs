using Microsoft.ML;
using Microsoft.ML.Data;

namespace ML.Rlhf.Tests.EncoderDecoder;

public sealed class TextToTextTransformerTests : IDisposable
{
    private const int BatchSize = 64;

    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;
    private readonly MLContext _ml = new(seed: 1);

    private string Zip => Path.Combine(_folder, "model.zip");

    private static string[] Prompts { get; } =
        [.. Enumerable.Range(0, BatchSize + 9).Select(i => Tiny.Prompts[i % 8].Prompt + new string((char)('a' + i % 26), i % 9))];

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void A_pipeline_gives_what_Generate_gives_for_each_prompt_alone()
    {
        var column = Tiny.TextToText.Transform(_ml.View(Prompts)).GetColumn<string>("Completion").ToList();

        Assert.Equal(Prompts.Select(prompt => Tiny.TextToText.Generate(prompt)), column);
        Assert.Equal(Tiny.TextToText.Generate(Prompts), column);
        Assert.InRange(column.Distinct().Count(), 20, column.Count);
    }

    [Fact]
    public void Rows_are_read_and_completed_in_batches_when_they_are_asked_for()
    {
        int read = 0;
        var endless = _ml.Data.LoadFromEnumerable(Endless());

        Assert.Equal(3, Tiny.TextToText.Transform(endless).GetColumn<string>("Completion").Take(3).Count());
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
            Tiny.TextToText, new PredictionEngineOptions { OwnsTransformer = false });

        var answer = engine.Predict(new() { Prompt = "cat" });

        Assert.Equal(("cat", Tiny.TextToText.Generate("cat")), (answer.Prompt, answer.Completion));
    }

    [Fact]
    public void It_comes_back_from_a_file_bit_for_bit_with_all_its_settings()
    {
        using var model = Tiny.TextToText.WithSampling(
            new SamplingOptions
            {
                MaxNewTokens = 9, Temperature = 0.7f, TopK = 20, TopP = 0.95f, Seed = -5, TruncatePrompts = true, MinP = 0.01f,
                TypicalP = 0.97f, EpsilonCutoff = 0.002f, RepetitionPenalty = 1.1f, NoRepeatNgramSize = 4, MinNewTokens = 2,
            });
        _ml.Model.Save(model, _ml.View("cat").Schema, Zip);

        using var loaded = Assert.IsType<TextToTextTransformer>(new MLContext().Model.Load(Zip, out _));

        Assert.Equal(Tiny.Weights(model), Tiny.Weights(loaded));
        Assert.Equal(model.Generate(Prompts), loaded.Generate(Prompts));
        Assert.Equal(
            (model.Sampling, model.Architecture, model.Tokenizer, model.PromptColumnName, model.CompletionColumnName),
            (loaded.Sampling, loaded.Architecture, loaded.Tokenizer, loaded.PromptColumnName, loaded.CompletionColumnName));
        Assert.False(loaded.Module.training);
    }

    [Fact]
    public void It_comes_back_in_a_chain_of_stock_transforms()
    {
        var data = _ml.Data.LoadFromEnumerable(Tiny.Demonstrations);
        var chain = new TransformerChain<ITransformer>(
            _ml.Transforms.Text.NormalizeText("Prompt").Fit(data), Tiny.TextToText,
            _ml.Transforms.CopyColumns("Copy", "Completion").Fit(data));
        _ml.Model.Save(chain, data.Schema, Zip);

        var loaded = new MLContext().Model.Load(Zip, out _);
        using var alone = _ml.Rlhf().Models.Load<TextToTextTransformer>(Zip);

        var upper = _ml.View([.. Prompts.Select(prompt => prompt.ToUpperInvariant())]);
        Assert.Equal(Tiny.TextToText.Generate(Prompts), loaded.Transform(upper).GetColumn<string>("Copy"));
        Assert.Equal(Tiny.TextToText.Generate(Prompts), alone.Generate(Prompts));
    }

    [Fact]
    public void The_context_holds_a_prompt_with_its_end_and_a_longer_one_is_an_error_or_cut()
    {
        string longest = new('a', 31), tooLong = "b" + longest;

        Assert.NotNull(Tiny.TextToText.Generate(longest));
        Assert.Equal(
            "The prompt 'baaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' has 33 tokens with its end, but the model's context is 32 tokens. " +
            "Shorten the prompt, set SamplingOptions.TruncatePrompts to keep its end, or use a model with a longer context. " +
            "(Parameter 'prompt')",
            Assert.Throws<ArgumentException>(() => Tiny.TextToText.Generate(tooLong)).Message);
        Assert.Equal(
            Tiny.TextToText.Generate(longest),
            Tiny.TextToText.Generate(tooLong, Tiny.TextToText.Sampling with { TruncatePrompts = true }));
    }

    [Fact]
    public void An_empty_prompt_has_a_completion_and_no_prompts_have_none()
    {
        Assert.NotNull(Tiny.TextToText.Generate(""));
        Assert.Empty(Tiny.TextToText.Generate([]));
    }

    [Fact]
    public void Cancelling_stops_generation()
    {
        Assert.Throws<OperationCanceledException>(() => Tiny.TextToText.Generate("cat", null, new CancellationToken(canceled: true)));
    }

    [Fact]
    public void Other_sampling_shares_the_weights_and_each_is_disposed_on_its_own()
    {
        var first = Tiny.TrainTextToText();
        var second = first.WithSampling(first.Sampling with { Seed = 5 });
        string expected = second.Generate("cat");
        Assert.Same(first.Module, second.Module);

        first.Dispose();
        Assert.Equal(expected, second.Generate("cat"));
        Assert.Throws<ObjectDisposedException>(() => first.Generate("cat"));

        var weight = second.Module.parameters().First();
        second.Dispose();
        Assert.True(weight.IsInvalid);
    }

    [Fact]
    public void Generating_saving_and_loading_leave_no_tensors()
    {
        Run();
        long before = TorchSharp.DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;

        Run();

        Assert.Equal(before, TorchSharp.DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount);

        void Run()
        {
            Tiny.TextToText.Generate(Prompts);
            _ml.Model.Save(Tiny.TextToText, null, Zip);
            _ml.Rlhf().Models.Load<TextToTextTransformer>(Zip).Dispose();
        }
    }
}
