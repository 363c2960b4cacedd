using System.IO.Compression;
using System.Text;
using Microsoft.ML;

namespace ML.Rlhf.Tests.Lora;

/// <summary>Adapters behind ML.NET's face: training, files, merging, sharing.</summary>
public sealed class LoraTests : IDisposable
{
    private static readonly LoraOptions s_lora = new() { Rank = 4, Alpha = 8 };
    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;
    private readonly MLContext _ml = new(seed: 1);

    private string Zip => Path.Combine(_folder, "model.zip");

    public static TheoryData<string> Stages => ["SFT", "Reward model", "PPO", "PPO, shared trunk", "GRPO", "RLOO", "DPO", "KTO", "ORPO"];

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [MemberData(nameof(Stages))]
    public void Every_trainer_that_starts_from_a_model_can_train_adapters(string stage)
    {
        var before = Tiny.Weights(Tiny.Model);

        using var first = (IDisposable)Fit(stage, Tiny.Model);
        using var again = (IDisposable)Fit(stage, Tiny.Model);

        bool hasAdapters = first is RewardTransformer reward ? reward.HasAdapters : ((TextGenerationTransformer)first).HasAdapters;
        Assert.True(hasAdapters);
        Assert.Equal(Tiny.Weights((ITransformer)first), Tiny.Weights((ITransformer)again));
        Assert.Equal(before, Tiny.Weights(Tiny.Model));
        Assert.False(Tiny.Model.HasAdapters);
        Assert.All(Tiny.Model.Module.parameters(), parameter => Assert.True(parameter.requires_grad));
    }

    [Fact]
    public void A_language_model_survives_its_file_with_its_adapters()
    {
        using var model = Model();
        _ml.Model.Save(model, null, Zip);

        using var loaded = _ml.Rlhf().Models.Load<TextGenerationTransformer>(Zip);

        Assert.True(loaded.HasAdapters);
        Assert.Equal(Tiny.Weights(model), Tiny.Weights(loaded));
        Assert.Equal(Answers(model), Answers(loaded));
        Assert.NotEqual(Answers(Tiny.Model), Answers(loaded));
        Assert.Contains("\"Target\": \"h.0.attn.c_attn\"", Entry("adapter.json"), StringComparison.Ordinal);
        Assert.Contains("\"Rank\": 4", Entry("adapter.json"), StringComparison.Ordinal);
    }

    [Fact]
    public void A_reward_model_survives_its_file_with_its_adapters()
    {
        using var model = (RewardTransformer)Fit("Reward model", Tiny.Model);
        _ml.Model.Save(model, null, Zip);

        using var loaded = _ml.Rlhf().Models.Load<RewardTransformer>(Zip);

        Assert.True(loaded.HasAdapters);
        Assert.Equal(Tiny.Weights(model), Tiny.Weights(loaded));
        Assert.Equal(model.Score("cat", "meow"), loaded.Score("cat", "meow"));
    }

    [Theory]
    [InlineData("\"h.0.attn.c_attn\"", "\"h.7.attn.c_attn\"")]
    [InlineData("\"Rank\": 4", "\"Rank\": 2000000000")]
    [InlineData("\"Rank\": 4", "\"Rank\": 0")]
    [InlineData("\"Alpha\": 8", "\"Alpha\": 9")]
    public void A_damaged_list_of_adapters_is_an_error(string part, string replacement)
    {
        using (var model = Model())
            _ml.Model.Save(model, null, Zip);
        string content = Entry("adapter.json");
        using (var zip = ZipFile.Open(Zip, ZipArchiveMode.Update))
        {
            var old = zip.Entries.Single(e => e.Name == "adapter.json");
            string name = old.FullName;
            old.Delete();
            using var writer = new StreamWriter(zip.CreateEntry(name).Open(), new UTF8Encoding(false));
            writer.Write(content.Replace(part, replacement));
        }

        var error = Assert.Throws<FormatException>(() => _ml.Rlhf().Models.Load<TextGenerationTransformer>(Zip));

        Assert.Contains("adapter.json", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Merging_gives_a_model_of_its_own_with_the_same_numbers()
    {
        using var model = Model();
        using var merged = model.MergeAdapters();

        Assert.False(merged.HasAdapters);
        Assert.Equal(Tiny.Weights(Tiny.Model).Length, Tiny.Weights(merged).Length);
        Assert.Equal(Perplexity(model), Perplexity(merged), 1e-5 * Perplexity(model));
        Assert.NotEqual(Perplexity(Tiny.Model), Perplexity(merged), 1e-3);
        Assert.Equal((model.PromptColumnName, model.Sampling), (merged.PromptColumnName, merged.Sampling));

        using var reward = (RewardTransformer)Fit("Reward model", Tiny.Model);
        using var mergedReward = reward.MergeAdapters();
        Assert.False(mergedReward.HasAdapters);
        Assert.Equal(reward.Score("cat", "meow"), mergedReward.Score("cat", "meow"), 1e-4f);
        Assert.Equal((reward.Gain, reward.Bias), (mergedReward.Gain, mergedReward.Bias));
    }

    [Fact]
    public void Merging_and_loading_adapters_keep_the_chat_template_and_the_columns()
    {
        var template = new ChatTemplateCatalog().HumanAssistant();
        using var plain = Tiny.Model.WithChatTemplate(template);
        using var model = (TextGenerationTransformer)Fit("DPO", plain);
        model.SaveAdapter(_folder);

        using var merged = model.MergeAdapters();
        using var shared = plain.MergeAdapters();
        using var loaded = _ml.Rlhf().Models.LoadAdapter(plain, _folder);

        Assert.All([merged, shared, loaded], m => Assert.Same(template, m.ChatTemplate));
    }

    [Fact]
    public void Merging_a_model_without_adapters_shares_it()
    {
        using var merged = Tiny.Model.MergeAdapters();
        Assert.Same(Tiny.Model.Module, merged.Module);
    }

    [Fact]
    public void Either_of_two_models_that_share_weights_can_be_disposed()
    {
        var model = Tiny.Train();
        var expected = Answers(model);
        var first = (TextGenerationTransformer)Fit("SFT", model);
        var second = (TextGenerationTransformer)Fit("SFT", model);
        var trained = Answers(second);

        first.Dispose();
        Assert.Equal(expected, Answers(model));
        model.Dispose();
        TorchSharp.torch.rand(100_000).Dispose(); // would take freed memory
        Assert.Equal(trained, Answers(second));
        second.Dispose();
    }

    [Fact]
    public void An_adapters_folder_gives_the_same_model_bit_for_bit()
    {
        using var model = Model();
        model.SaveAdapter(_folder);

        using var loaded = _ml.Rlhf().Models.LoadAdapter(Tiny.Model, _folder);

        Assert.Equal(["adapter_config.json", "adapter_model.safetensors"], Directory.GetFiles(_folder).Select(Path.GetFileName).Order());
        Assert.Equal(Tiny.Weights(model), Tiny.Weights(loaded));
        Assert.Equal(Answers(model), Answers(loaded));
        Assert.False(Tiny.Model.HasAdapters);
    }

    [Fact]
    public void A_reward_models_adapter_folder_gives_the_same_scores()
    {
        using var model = (RewardTransformer)Fit("Reward model", Tiny.Model);
        model.SaveAdapter(_folder);

        using var loaded = _ml.Rlhf().Models.LoadRewardAdapter(Tiny.Model, _folder);

        Assert.Equal(model.Score("cat", "meow"), loaded.Score("cat", "meow"), 1e-4f);
        Assert.Equal(("Prompt", "Completion", "Score"), (loaded.PromptColumnName, loaded.CompletionColumnName, loaded.ScoreColumnName));
        Assert.StartsWith(
            $"The adapter in '{_folder}' is of a sequence classifier",
            Assert.Throws<FormatException>(() => _ml.Rlhf().Models.LoadAdapter(Tiny.Model, _folder)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Adapters_stand_beside_plain_weights_only()
    {
        using var model = Model();
        model.SaveAdapter(_folder);

        Assert.StartsWith(
            "The model has adapters already, and those of a folder stand beside plain weights.",
            Assert.Throws<ArgumentException>(() => _ml.Rlhf().Models.LoadAdapter(model, _folder)).Message, StringComparison.Ordinal);
        Assert.Equal(
            "The model has no adapters that could be saved. Train it with LoraOptions, or save the whole model.",
            Assert.Throws<InvalidOperationException>(() => Tiny.Model.SaveAdapter(_folder)).Message);
    }

    [Fact]
    public void A_model_with_adapters_can_be_trained_further_with_or_without_others()
    {
        using var model = Model();
        var before = Tiny.Weights(model);

        using var further = (TextGenerationTransformer)Fit("DPO", model);
        using var whole = _ml.Rlhf().Trainers.SupervisedFineTuning(model).Fit(_ml.Data.LoadFromEnumerable(Tiny.Demonstrations));

        Assert.True(further.HasAdapters);
        Assert.False(whole.HasAdapters);
        Assert.Equal(before, Tiny.Weights(model));
    }

    [Fact]
    public void PPO_starts_its_value_function_from_a_reward_model_with_adapters()
    {
        using var reward = (RewardTransformer)Fit("Reward model", Tiny.Model);
        var updates = new ProgressRecords();
        var options = Ppo(ValueFunction.Network) with { Progress = updates };

        using var policy = _ml.Rlhf().Trainers.Ppo(Tiny.Model, reward, options).Fit(_ml.Data.LoadFromEnumerable(Tiny.Prompts));

        Assert.True(policy.HasAdapters);
        Assert.Equal(0, ((PpoProgress)updates[0]).Kl);
        Assert.NotEqual(0, ((PpoProgress)updates[^1]).Kl);
    }

    [Fact]
    public void A_trained_model_and_what_it_was_made_from_leave_no_tensor_behind()
    {
        void Run()
        {
            using var model = Model();
            model.SaveAdapter(_folder);
            using var loaded = _ml.Rlhf().Models.LoadAdapter(Tiny.Model, _folder);
            using var merged = loaded.MergeAdapters();
        }
        Run();
        long before = TorchSharp.DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;

        Run();

        Assert.Equal(before, TorchSharp.DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount);
    }

    [Fact]
    public void Options_that_are_out_of_range_are_named()
    {
        var bad = new LoraOptions { Rank = 0, Alpha = double.NaN, Dropout = 1, Targets = ["c_attn", ""] };

        Assert.Equal(
            "SupervisedFineTuningOptions: Lora.Rank is 0, but must be at least 1; Lora.Alpha is NaN, but must be a finite number above " +
            "0; Lora.Dropout is 1, but must be in [0, 1); Lora.Targets is [c_attn, ], but must be names of linear layers, or null for " +
            "all of them; Epochs is 0, but must be at least 1.",
            Assert.Throws<ArgumentException>(() => _ml.Rlhf().Trainers.SupervisedFineTuning(
                Tiny.Model, new SupervisedFineTuningOptions { Lora = bad, Epochs = 0 })).Message);
        Assert.Equal(
            "DpoOptions: Lora.Dropout is 0.1, but must be 0: of the trainers, only supervised fine-tuning has dropout.",
            Assert.Throws<ArgumentException>(() => _ml.Rlhf().Trainers.Dpo(
                Tiny.Model, new DpoOptions { Lora = new LoraOptions { Dropout = 0.1 } })).Message);
    }

    [Theory]
    [MemberData(nameof(Stages))]
    public void A_target_that_the_model_does_not_have_is_an_error_when_the_trainer_is_made(string stage)
    {
        Assert.StartsWith(
            "Lora.Targets: q_proj is no linear layer that adapters fit. A Gpt of this shape has c_attn, c_proj, c_fc;",
            Assert.Throws<ArgumentException>(() => Trainer(stage, Tiny.Model, s_lora with { Targets = ["q_proj"] })).Message,
            StringComparison.Ordinal);
    }

    private TextGenerationTransformer Model() => (TextGenerationTransformer)Fit("SFT", Tiny.Model);

    private ITransformer Fit(string stage, TextGenerationTransformer model) => Trainer(stage, model, s_lora).Fit(stage switch
    {
        "SFT" => _ml.Data.LoadFromEnumerable(Tiny.Demonstrations),
        "Reward model" or "DPO" or "ORPO" => _ml.Data.LoadFromEnumerable(Tiny.Preferences),
        "KTO" => _ml.Data.LoadFromEnumerable(Tiny.Feedback),
        _ => _ml.Data.LoadFromEnumerable(Tiny.Prompts),
    });

    private IEstimator<ITransformer> Trainer(string stage, TextGenerationTransformer model, LoraOptions lora)
    {
        var trainers = _ml.Rlhf().Trainers;
        float Length(string prompt, string completion) => completion.Length + completion.Sum(c => c) / 1000f;
        return stage switch
        {
            "SFT" => trainers.SupervisedFineTuning(model, new SupervisedFineTuningOptions
            {
                Lora = lora, Epochs = 10, BatchSize = 4, LearningRate = 1e-2,
            }),
            "Reward model" => trainers.RewardModel(model, new RewardModelOptions { Lora = lora, Epochs = 3, LearningRate = 1e-2 }),
            "DPO" => trainers.Dpo(model, new DpoOptions { Lora = lora, Epochs = 3 }),
            "KTO" => trainers.Kto(model, new KtoOptions { Lora = lora, Epochs = 3 }),
            "ORPO" => trainers.Orpo(model, new OrpoOptions { Lora = lora, Epochs = 3 }),
            "GRPO" => trainers.Grpo(model, Length, new GrpoOptions
            {
                Lora = lora, Episodes = 8, EpisodesPerUpdate = 4, GroupSize = 4, MaxResponseTokens = 4, UnfinishedScore = null,
            }),
            "RLOO" => trainers.Rloo(model, Length, new RlooOptions
            {
                Lora = lora, Episodes = 8, EpisodesPerUpdate = 4, GroupSize = 4, MaxResponseTokens = 4, UnfinishedScore = null,
            }),
            _ => trainers.Ppo(model, Length, Ppo(stage == "PPO" ? ValueFunction.Network : ValueFunction.SharedTrunk) with { Lora = lora }),
        };
    }

    private static PpoOptions Ppo(ValueFunction value) => new()
    {
        Lora = s_lora, Episodes = 12, EpisodesPerUpdate = 4, MaxResponseTokens = 4, LearningRate = 1e-3, UnfinishedScore = null,
        ValueFunction = value,
    };

    private static IReadOnlyList<string> Answers(TextGenerationTransformer model) =>
        model.Generate([.. Tiny.Prompts.Select(p => p.Prompt)], new SamplingOptions { MaxNewTokens = 12, Temperature = 0 });

    private double Perplexity(TextGenerationTransformer model) =>
        _ml.Rlhf().EvaluateLanguageModel(model, _ml.Data.LoadFromEnumerable(Tiny.Documents)).Perplexity;

    private string Entry(string name)
    {
        using var zip = ZipFile.OpenRead(Zip);
        using var reader = new StreamReader(zip.Entries.Single(e => e.Name == name).Open());
        return reader.ReadToEnd();
    }
}
