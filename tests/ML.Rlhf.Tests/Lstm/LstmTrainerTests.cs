using Microsoft.ML;
using Microsoft.ML.Data;

namespace ML.Rlhf.Tests.Lstm;

/// <summary>What holds for every trainer is tested in <see cref="Catalog"/>: this is what an LSTM has of its own.</summary>
public sealed class LstmTrainerTests
{
    private static readonly Lazy<TextGenerationTransformer> s_model = new(() => Train(steps: 20));
    private readonly MLContext _ml = new(seed: 1);

    [Fact]
    public void It_learns_the_corpus()
    {
        var progress = new ProgressRecords();

        using var model = Train(steps: 100, progress);

        Assert.InRange(progress[0].Loss, Math.Log(29) - 0.2, Math.Log(29) + 0.2); // it begins by guessing among 28 letters and the end
        Assert.InRange(progress[^1].Loss, 0, progress[0].Loss / 2);
    }

    [Fact]
    public void A_model_comes_back_from_its_file_bit_for_bit()
    {
        string zip = Path.GetTempFileName();
        try
        {
            _ml.Model.Save(s_model.Value, null, zip);
            using var loaded = _ml.Rlhf().Models.Load<TextGenerationTransformer>(zip);

            Assert.Equal(s_model.Value.Architecture, Assert.IsType<LstmArchitecture>(loaded.Architecture));
            Assert.Equal(Tiny.Weights(s_model.Value), Tiny.Weights(loaded));
            Assert.Equal(s_model.Value.Generate(["cat", "the dog", ""]), loaded.Generate(["cat", "the dog", ""]));
        }
        finally
        {
            File.Delete(zip);
        }
    }

    [Fact]
    public void A_reward_model_on_an_LSTM_comes_back_from_its_file()
    {
        string zip = Path.GetTempFileName();
        try
        {
            using var reward = Tiny.TrainReward(s_model.Value);
            _ml.Model.Save(reward, null, zip);
            using var loaded = _ml.Rlhf().Models.Load<RewardTransformer>(zip);

            Assert.Equal(reward.Score("cat", "meow meow"), loaded.Score("cat", "meow meow"));
            Assert.NotEqual(reward.Score("cat", "nob"), reward.Score("cat", "meow meow"));
        }
        finally
        {
            File.Delete(zip);
        }
    }

    [Fact]
    public async Task Streaming_gives_the_text_that_batches_give()
    {
        string[] prompts = ["the cat", "a", "red is the"];
        var together = s_model.Value.Generate(prompts);

        for (int i = 0; i < prompts.Length; i++)
        {
            string text = "";
            await foreach (string piece in s_model.Value.GenerateStreamingAsync(prompts[i], null, TestContext.Current.CancellationToken))
                text += piece;
            Assert.Equal(together[i], text);
        }
    }

    /// <summary>Packed rows reach the memory of no other row: the same losses as padded ones.</summary>
    [Fact]
    public void Fine_tuning_takes_the_same_steps_packed_or_padded()
    {
        double[] Losses(bool packing)
        {
            var progress = new ProgressRecords();
            var options = new SupervisedFineTuningOptions { BatchSize = 8, LearningRate = 1e-2, Packing = packing, Progress = progress };
            var demonstrations = _ml.Data.LoadFromEnumerable(Tiny.Demonstrations);
            _ml.Rlhf().Trainers.SupervisedFineTuning(s_model.Value, options).Fit(demonstrations).Dispose();
            return [.. progress.Select(p => p.Loss)];
        }

        double[] padded = Losses(packing: false), packed = Losses(packing: true);

        Assert.True(padded[^1] < padded[0], $"{padded[0]} → {padded[^1]}");
        Assert.All(padded.Zip(packed), p => Assert.Equal(p.First, p.Second, 1e-4 * p.First));
    }

    [Fact]
    public void Every_later_stage_moves_every_parameter_and_leaves_the_model_as_it_is()
    {
        var trainers = _ml.Rlhf().Trainers;
        var model = s_model.Value;
        float[] before = Tiny.Weights(model);
        var preferences = _ml.Data.LoadFromEnumerable(Tiny.Preferences);
        var prompts = _ml.Data.LoadFromEnumerable(Tiny.Prompts);

        using var sft = trainers.SupervisedFineTuning(model, new SupervisedFineTuningOptions { Epochs = 1, BatchSize = 4 })
            .Fit(_ml.Data.LoadFromEnumerable(Tiny.Demonstrations));
        using var reward = trainers.RewardModel(sft, new RewardModelOptions { Epochs = 1, BatchSize = 4 }).Fit(preferences);
        using var dpo = trainers.Dpo(sft, new DpoOptions { Epochs = 1, BatchSize = 4 }).Fit(preferences);
        using var ppo = trainers.Ppo(sft, reward, new PpoOptions
        {
            Episodes = 8, EpisodesPerUpdate = 8, MaxResponseTokens = 6, UnfinishedScore = null,
        }).Fit(prompts);
        using var shared = trainers.Ppo(sft, reward, new PpoOptions
        {
            Episodes = 8, EpisodesPerUpdate = 8, MaxResponseTokens = 6, UnfinishedScore = null, ValueFunction = ValueFunction.SharedTrunk,
        }).Fit(prompts);

        AssertMoved(model.Module, sft.Module);
        AssertMoved(sft.Module, reward.Module);
        AssertMoved(sft.Module, dpo.Module);
        AssertMoved(sft.Module, ppo.Module);
        AssertMoved(sft.Module, shared.Module);
        Assert.Equal(before, Tiny.Weights(model));
        Assert.All(
            reward.Transform(_ml.Data.LoadFromEnumerable(Tiny.Demonstrations)).GetColumn<float>("Score"),
            score => Assert.True(float.IsFinite(score)));
        Assert.Equal(8, ppo.Generate([.. Tiny.Prompts.Select(p => p.Prompt)]).Count);
    }

    private static TextGenerationTransformer Train(int steps, IProgress<TrainingProgress>? progress = null)
    {
        var ml = new MLContext(seed: 1);
        return ml.Rlhf().Trainers.Lstm(new LstmOptions
        {
            Architecture = Tiny.Recurrent with { Layers = 2 },
            Tokenizer = Tiny.Letters,
            Steps = steps,
            BatchSize = 4,
            LearningRate = 2e-2,
            WarmupSteps = 0,
            PromptColumnName = "Prompt",
            Sampling = new SamplingOptions { MaxNewTokens = 6 },
            Progress = progress,
        }).Fit(ml.Data.LoadFromEnumerable(Tiny.Documents));
    }

    /// <summary>Each parameter of the trunk has changed; a reward model's trunk is its "transformer".</summary>
    private static void AssertMoved(TorchSharp.torch.nn.Module before, TorchSharp.torch.nn.Module after)
    {
        var trained = after.named_parameters().ToDictionary(
            p => p.name.Replace("transformer.", "", StringComparison.Ordinal), p => p.parameter);
        Assert.All(before.named_parameters(), p => Assert.False(
            p.parameter.detach().cpu().data<float>().SequenceEqual(trained[p.name].detach().cpu().data<float>()), p.name));
    }
}
