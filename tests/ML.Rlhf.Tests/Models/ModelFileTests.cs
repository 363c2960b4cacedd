using Microsoft.ML;
using Microsoft.ML.Data;
using ML.Rlhf.Tests.Bridge;

namespace ML.Rlhf.Tests.Models;

public sealed class ModelFileTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;
    private readonly MLContext _ml = new(seed: 1);

    private string Zip => Path.Combine(_folder, "model.zip");

    private static string[] Prompts { get; } =
        [.. Enumerable.Range(0, 70).Select(i => Tiny.Prompts[i % 8].Prompt + new string((char)('a' + i % 26), i % 9))];

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void A_language_model_comes_back_bit_for_bit_with_all_its_settings()
    {
        using var model = Tiny.Model.WithSampling(
            new SamplingOptions
            {
                MaxNewTokens = 9, Temperature = 0.7f, TopK = 20, TopP = 0.95f, Seed = -5, TruncatePrompts = true, MinP = 0.01f,
                TypicalP = 0.97f, EpsilonCutoff = 0.002f, RepetitionPenalty = 1.1f, NoRepeatNgramSize = 4, MinNewTokens = 2,
            });
        _ml.Model.Save(model, _ml.View("cat").Schema, Zip);

        using var loaded = Assert.IsType<TextGenerationTransformer>(new MLContext().Model.Load(Zip, out var schema));

        Assert.Equal(Tiny.Weights(model), Tiny.Weights(loaded));
        Assert.Equal(model.Generate(Prompts), loaded.Generate(Prompts));
        Assert.Equal(model.Sampling, loaded.Sampling);
        Assert.Equal(model.Architecture, loaded.Architecture);
        Assert.Equal(model.Tokenizer, loaded.Tokenizer);
        Assert.Equal((model.PromptColumnName, model.CompletionColumnName), (loaded.PromptColumnName, loaded.CompletionColumnName));
        Assert.False(loaded.Module.training);
        Assert.Equal("Prompt", Assert.Single(schema).Name);
    }

    [Fact]
    public void A_reward_model_comes_back_bit_for_bit_with_all_its_columns()
    {
        var options = new RewardModelOptions { CompletionColumnName = "Answer", ScoreColumnName = "Reward" };
        using var model = Tiny.TrainReward(Tiny.Model, options);
        _ml.Model.Save(model, null, Zip);

        using var loaded = Assert.IsType<RewardTransformer>(new MLContext().Model.Load(Zip, out _));

        Assert.Equal(Tiny.Weights(model), Tiny.Weights(loaded));
        Assert.Equal(model.Score("cat", "meow"), loaded.Score("cat", "meow"));
        Assert.NotEqual((1, 0), (model.Gain, model.Bias));
        Assert.Equal((model.Gain, model.Bias), (loaded.Gain, loaded.Bias));
        Assert.Equal(("Prompt", "Answer", "Reward"), (loaded.PromptColumnName, loaded.CompletionColumnName, loaded.ScoreColumnName));
        var chosen = _ml.Data.LoadFromEnumerable(Tiny.Preferences);
        Assert.Equal(model.Transform(chosen).GetColumn<float>("Reward"), loaded.Transform(chosen).GetColumn<float>("Reward"));
    }

    [Fact]
    public void A_loaded_model_can_be_saved_again()
    {
        string again = Path.Combine(_folder, "again.zip");
        _ml.Model.Save(Tiny.Model, null, Zip);
        using var first = _ml.Rlhf().Models.Load<TextGenerationTransformer>(Zip);
        _ml.Model.Save(first, null, again);

        using var second = _ml.Rlhf().Models.Load<TextGenerationTransformer>(again);

        Assert.Equal(Tiny.Model.Generate(Prompts), second.Generate(Prompts));
        Assert.Equal(File.ReadAllBytes(Zip).Length, File.ReadAllBytes(again).Length);
    }

    [Fact]
    public void A_chain_of_stock_transforms_and_ours_comes_back()
    {
        var data = _ml.Data.LoadFromEnumerable(Tiny.Demonstrations);
        var chain = Chain(data);
        _ml.Model.Save(chain, data.Schema, Zip);

        var loaded = new MLContext().Model.Load(Zip, out _);

        var upper = _ml.View([.. Prompts.Select(prompt => prompt.ToUpperInvariant())]);
        Assert.Equal(chain.Transform(upper).GetColumn<string>("Copy"), loaded.Transform(upper).GetColumn<string>("Copy"));
        Assert.Equal(chain.Transform(upper).GetColumn<float>("Score"), loaded.Transform(upper).GetColumn<float>("Score"));
        Assert.Equal(Tiny.Model.Generate(Prompts), loaded.Transform(upper).GetColumn<string>("Completion"));
        using var engine = _ml.Model.CreatePredictionEngine<PromptOnly, Generated>(loaded);
        Assert.Equal(Tiny.Model.Generate("cat"), engine.Predict(new() { Prompt = "CAT" }).Completion);
    }

    [Fact]
    public void One_component_of_a_chain_is_loaded_with_its_own_type()
    {
        var data = _ml.Data.LoadFromEnumerable(Tiny.Demonstrations);
        var chain = Chain(data);
        _ml.Model.Save(chain, data.Schema, Zip);

        using var model = _ml.Rlhf().Models.Load<TextGenerationTransformer>(Zip);
        using var reward = _ml.Rlhf().Models.Load<RewardTransformer>(Zip);

        Assert.Equal(Tiny.Model.Generate("cat"), model.Generate("cat"));
        Assert.Equal(Tiny.Reward.Score("cat", "meow"), reward.Score("cat", "meow"));
    }

    [Fact]
    public void A_loaded_model_can_be_trained_further()
    {
        _ml.Model.Save(Tiny.Model, null, Zip);
        using var loaded = _ml.Rlhf().Models.Load<TextGenerationTransformer>(Zip);
        var data = _ml.Data.LoadFromEnumerable(Tiny.Demonstrations);

        Assert.Equal(
            Tiny.Weights(_ml.Rlhf().Trainers.SupervisedFineTuning(Tiny.Model).Fit(data)),
            Tiny.Weights(_ml.Rlhf().Trainers.SupervisedFineTuning(loaded).Fit(data)));
    }

    [Fact]
    public void The_loader_of_JSON_Lines_comes_along()
    {
        string lines = Path.Combine(_folder, "prompts.jsonl");
        File.WriteAllLines(lines, ["""{"prompt":"cat"}""", """{"prompt":"dog"}"""]);
        var loader = _ml.Data.CreateJsonLinesLoader<PromptOnly>();
        _ml.Model.Save(Tiny.Model, loader, Zip);

        var loaded = new MLContext().Model.LoadWithDataLoader(Zip, out var loadedLoader);

        var data = loadedLoader.Load(new MultiFileSource(lines));
        Assert.Equal(Tiny.Model.Generate(["cat", "dog"]), loaded.Transform(data).GetColumn<string>("Completion"));
    }

    [Theory]
    [InlineData(TokenizerKind.ByteLevelBpe)]
    [InlineData(TokenizerKind.Bytes)]
    [InlineData(TokenizerKind.Characters)]
    public void Every_kind_of_tokenizer_comes_along(TokenizerKind kind)
    {
        var corpus = _ml.Data.LoadFromEnumerable(Tiny.Documents);
        var tokenizer = kind switch
        {
            TokenizerKind.ByteLevelBpe => _ml.Rlhf().Tokenizers.TrainByteLevelBpe(corpus, 265),
            TokenizerKind.Bytes => _ml.Rlhf().Tokenizers.Bytes(),
            _ => _ml.Rlhf().Tokenizers.TrainCharacters(corpus, replaceUnknown: true),
        };
        using var model = Tiny.Train(tokenizer);
        _ml.Model.Save(model, null, Zip);

        using var loaded = _ml.Rlhf().Models.Load<TextGenerationTransformer>(Zip);

        Assert.Equal(tokenizer, loaded.Tokenizer);
        Assert.Equal(model.Generate("the cat ½"), loaded.Generate("the cat ½"));
    }

    [Fact]
    public void A_GPU_that_is_not_there_is_an_error_also_when_a_model_is_loaded()
    {
        Assert.SkipWhen(TorchSharp.torch.cuda.is_available(), "This machine has a GPU.");
        _ml.Model.Save(Tiny.Model, null, Zip);

        const string Message = "MLContext.GpuDeviceId is 0, but no CUDA device or no CUDA backend was found.";
        Assert.StartsWith(Message, Assert.Throws<InvalidOperationException>(
            () => new MLContext { GpuDeviceId = 0 }.Rlhf().Models.Load<TextGenerationTransformer>(Zip)).Message);
        using var model = new MLContext { GpuDeviceId = 0, FallbackToCpu = true }.Rlhf().Models.Load<TextGenerationTransformer>(Zip);
        Assert.Equal(Tiny.Model.Generate("cat"), model.Generate("cat"));
    }

    [Fact]
    public void Loading_leaves_no_tensors_but_the_weights()
    {
        _ml.Model.Save(Tiny.Model, null, Zip);
        _ml.Rlhf().Models.Load<TextGenerationTransformer>(Zip).Dispose();
        long before = TorchSharp.DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;

        _ml.Model.Save(Tiny.Model, null, Zip);
        _ml.Rlhf().Models.Load<TextGenerationTransformer>(Zip).Dispose();

        Assert.Equal(before, TorchSharp.DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount);
    }

    [Fact, Trait("Tier", "Slow")]
    public void A_fresh_process_that_names_nothing_of_the_pack_gives_the_same_completions()
    {
        var data = _ml.Data.LoadFromEnumerable(Tiny.Demonstrations);
        var chain = Chain(data);
        _ml.Model.Save(chain, data.Schema, Zip);
        File.WriteAllLines(Path.Combine(_folder, "prompts.txt"), Prompts.Select(prompt => prompt.ToUpperInvariant()));
        string output = Directory.CreateDirectory(Path.Combine(_folder, "out")).FullName;
        Directory.CreateSymbolicLink(Path.Combine(output, "runtimes"), Path.Combine(AppContext.BaseDirectory, "runtimes")); // libtorch

        string printed = FreshProcess.Run(_folder, """
            using Microsoft.ML;
            using Microsoft.ML.Data;

            var ml = new MLContext();
            var model = ml.Model.Load("model.zip", out var schema);
            var data = ml.Data.LoadFromEnumerable(File.ReadLines("prompts.txt").Select(line => new Row { Prompt = line }).ToArray());
            foreach (var row in ml.Data.CreateEnumerable<Result>(model.Transform(data), reuseRowObject: false))
                Console.WriteLine($"{row.Copy}|{BitConverter.SingleToInt32Bits(row.Score):x8}");

            class Row { public string Prompt { get; set; } }
            class Result { public string Copy { get; set; } public float Score { get; set; } }
            """);

        var view = _ml.View([.. Prompts.Select(prompt => prompt.ToUpperInvariant())]);
        var expected = chain.Transform(view).GetColumn<string>("Copy")
            .Zip(chain.Transform(view).GetColumn<float>("Score"), (copy, score) => $"{copy}|{BitConverter.SingleToInt32Bits(score):x8}");
        Assert.Equal(expected, printed.Split('\n'));
    }

    /// <summary>Prompts in any case → lower case → completion → its score → a copy of the completion without punctuation.</summary>
    private TransformerChain<ITransformer> Chain(IDataView data)
    {
        IEstimator<ITransformer> lower = _ml.Transforms.Text.NormalizeText("Prompt");
        return new TransformerChain<ITransformer>(
            lower.Fit(data),
            Tiny.Model,
            Tiny.Reward,
            _ml.Transforms.Text.NormalizeText("Copy", "Completion", keepPunctuations: false).Fit(data));
    }
}
