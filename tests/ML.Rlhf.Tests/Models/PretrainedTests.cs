using System.Text.Json.Nodes;
using Microsoft.ML;
using Microsoft.ML.Data;
using ML.Rlhf.TestSupport;

namespace ML.Rlhf.Tests.Models;

public sealed class PretrainedTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;
    private readonly MLContext _ml = new(seed: 1);
    private readonly ModelCatalog _models;

    public PretrainedTests() => _models = _ml.Rlhf().Models;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private string PathOf(string name) => Path.Combine(_folder, name);

    private static TextGenerationTransformer BpeModel { get; } = Tiny.Train(
        Tiny.Bpe, Tiny.Architecture, new SamplingOptions { MaxNewTokens = 9, Temperature = 0.7f, TopK = 20, TopP = 0.95f });

    [Fact]
    public void A_language_model_comes_back_bit_for_bit_with_its_tokenizer_and_its_sampling()
    {
        BpeModel.SavePretrained(_folder);
        using var loaded = _models.FromPretrained(_folder);

        Assert.Equal(Tiny.Weights(BpeModel), Tiny.Weights(loaded));
        Assert.Equal(BpeModel.Architecture, loaded.Architecture);
        Assert.Equal(BpeModel.Tokenizer, loaded.Tokenizer);
        Assert.Equal(BpeModel.Sampling, loaded.Sampling);
        string[] prompts = ["the cat", "", "a red dog sat."];
        Assert.Equal(BpeModel.Generate(prompts), loaded.Generate(prompts));
    }

    [Theory]
    [InlineData(WeightType.BFloat16, 0.004), InlineData(WeightType.Float16, 0.0005)]
    public void Half_the_space_rounds_each_number_by_its_last_digit(WeightType type, double relative)
    {
        BpeModel.SavePretrained(_folder, type);
        using var loaded = _models.FromPretrained(_folder);

        foreach (var ((_, before), (_, after)) in BpeModel.Module.named_parameters().Zip(loaded.Module.named_parameters()))
            Close.Assert(before, after, relative, absolute: 1e-7);
        Assert.Equal(type.ToString().ToLowerInvariant(), Json("config.json")["dtype"]!.GetValue<string>());
    }

    [Fact]
    public void A_reward_model_comes_back_with_the_same_scores()
    {
        using var reward = Tiny.TrainReward(BpeModel);
        Assert.NotEqual(1, reward.Gain);
        Assert.NotEqual(0, reward.Bias);

        reward.SavePretrained(_folder);
        using var loaded = _models.RewardModelFromPretrained(_folder);

        Assert.Equal((1d, 0d), (loaded.Gain, loaded.Bias));
        foreach (string answer in (string[])["meow", "", "woof woof"])
            Assert.Equal(reward.Score("cat", answer), loaded.Score("cat", answer), 1e-4);
        var scored = loaded.Transform(_ml.Data.LoadFromEnumerable([new Demonstration { Prompt = "cat", Completion = "meow" }]));
        Assert.Equal(loaded.Score("cat", "meow"), Assert.Single(scored.GetColumn<float>("Score")));
    }

    [Fact]
    public void An_imported_model_trains_and_goes_into_a_zip()
    {
        BpeModel.SavePretrained(_folder);
        using var loaded = _models.FromPretrained(_folder);
        using var tuned = _ml.Rlhf().Trainers.SupervisedFineTuning(loaded, epochs: 1)
            .Fit(_ml.Data.LoadFromEnumerable(Tiny.Demonstrations));

        _ml.Model.Save(tuned, null, PathOf("model.zip"));
        using var again = (TextGenerationTransformer)_ml.Model.Load(PathOf("model.zip"), out _);

        Assert.Equal(tuned.Generate("cat"), again.Generate("cat"));
    }

    [Fact]
    public void A_model_with_more_tokens_than_its_tokenizer_has_tokens_without_text()
    {
        using var model = Tiny.Train(Tiny.Letters);
        model.Module.eval();
        BpeModel.SavePretrained(_folder);

        using var loaded = _models.FromPretrained(_folder, Tiny.Letters);

        Assert.Equal(BpeModel.Architecture.VocabularySize, loaded.Tokenizer.VocabularySize);
        Assert.Equal(Tiny.Letters.Encode("a cat"), loaded.Tokenizer.Encode("a cat"));
        Assert.Equal("", loaded.Tokenizer.Decode([loaded.Tokenizer.VocabularySize - 1]));
        Assert.NotNull(loaded.Generate("cat")); // whatever it draws
    }

    [Fact]
    public void A_tokenizer_with_more_tokens_than_the_model_is_refused()
    {
        using var small = Tiny.Train(Tiny.Letters);
        ML.Rlhf.Torch.Checkpoints.Pretrained.Save((ML.Rlhf.Torch.Modules.CausalLanguageModel)small.Module, _folder);

        long before = TorchSharp.DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;
        var error = Assert.Throws<ArgumentException>(() => _models.FromPretrained(_folder, Tiny.Bpe));
        Assert.Equal(before, TorchSharp.DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount);

        Assert.StartsWith(
            $"The tokenizer has {Tiny.Bpe.VocabularySize} tokens, but the model only {Tiny.Letters.VocabularySize}.", error.Message,
            StringComparison.Ordinal);
    }

    [Fact]
    public void Generation_settings_of_the_folder_decide_how_the_model_samples()
    {
        BpeModel.SavePretrained(_folder);
        File.WriteAllText(PathOf("generation_config.json"), """{"do_sample": false, "temperature": 0.6, "max_new_tokens": 5}""");
        Assert.Equal(new SamplingOptions { Temperature = 0, MaxNewTokens = 5 }, _models.FromPretrained(_folder).Sampling);

        File.WriteAllText(PathOf("generation_config.json"), """{"do_sample": true, "temperature": 0.6, "top_p": 0.9}""");
        Assert.Equal(new SamplingOptions { Temperature = 0.6f, TopP = 0.9f }, _models.FromPretrained(_folder).Sampling);

        File.Delete(PathOf("generation_config.json"));
        Assert.Equal(new SamplingOptions(), _models.FromPretrained(_folder).Sampling);

        File.WriteAllText(PathOf("generation_config.json"), """{"temperature": "hot", "top_p": 7}""");
        Assert.Contains(
            "temperature is \"hot\", but must be a number; SamplingOptions: TopP is 7",
            Assert.Throws<FormatException>(() => _models.FromPretrained(_folder)).Message);
    }

    [Fact]
    public void A_reward_model_is_no_language_model_and_the_other_way_round()
    {
        BpeModel.SavePretrained(PathOf("model"));
        using (var reward = Tiny.TrainReward(BpeModel))
            reward.SavePretrained(PathOf("reward"));

        Assert.Contains(
            "is a sequence classifier", Assert.Throws<FormatException>(() => _models.FromPretrained(PathOf("reward"))).Message);
        Assert.Contains(
            "is no sequence classifier", Assert.Throws<FormatException>(() => _models.RewardModelFromPretrained(PathOf("model"))).Message);
    }

    [Fact]
    public void The_adapters_of_the_model_that_was_there_before_do_not_stay()
    {
        Directory.CreateDirectory(_folder);
        File.WriteAllText(PathOf("adapter_config.json"), "{}");
        File.WriteAllText(PathOf("adapter_model.safetensors"), "");
        File.WriteAllText(PathOf("chat_template.jinja"), "{{ messages }}");

        BpeModel.SavePretrained(_folder);

        Assert.Equal(
            ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"],
            Directory.GetFiles(_folder).Select(Path.GetFileName).Order(StringComparer.Ordinal));
    }

    [Fact]
    public void Weights_that_do_not_fit_the_configuration_are_all_listed()
    {
        BpeModel.SavePretrained(_folder);
        var config = Json("config.json");
        config["n_layer"] = 2;
        config["n_positions"] = 31;
        File.WriteAllText(PathOf("config.json"), config.ToJsonString());

        string message = Assert.Throws<FormatException>(() => _models.FromPretrained(_folder)).Message;

        Assert.Contains("'transformer.wpe.weight' is [32, 16], but the model has [31, 16]", message);
        Assert.Contains("'transformer.h.1.attn.c_attn.weight' is missing", message);
    }

    [Fact]
    public void A_folder_that_is_not_there_says_so() =>
        Assert.ThrowsAny<IOException>(() => _models.FromPretrained(PathOf("nothing")));

    private JsonObject Json(string name) => JsonNode.Parse(File.ReadAllText(PathOf(name)))!.AsObject();
}
