using Microsoft.ML;
using ML.Rlhf.Torch.Training;

namespace ML.Rlhf.Tests.Rewards;

public sealed class RewardCatalogTests
{
    private readonly MLContext _ml = new(seed: 1);

    private RewardCatalog Rewards => _ml.Rlhf().Rewards;

    [Fact]
    public void A_sum_of_rewards_is_the_weighted_sum_of_their_scores()
    {
        double[] Scores(Reward reward)
        {
            var progress = new ProgressRecords();
            _ml.Rlhf().Trainers.Ppo(Tiny.Model, reward, new PpoOptions
            {
                Episodes = 4, EpisodesPerUpdate = 4, MaxResponseTokens = 4, UnfinishedScore = null, Progress = progress,
            }).Fit(_ml.Data.LoadFromEnumerable(Tiny.Prompts)).Dispose();
            return [.. progress.Cast<PpoProgress>().Select(p => p.Score)];
        }
        Reward length = Rewards.FromFunction((_, completion) => completion.Length);
        Reward model = Rewards.FromTransformer(Tiny.Reward);

        double expected = 2 * Scores(length)[0] - 0.5 * Scores(model)[0];

        Assert.Equal(expected, Scores(Rewards.Sum((length, 2), (model, -0.5)))[0], 1e-5);
        Assert.Equal(expected, Scores(Rewards.Sum((Rewards.Sum((length, 4)), 0.5), (model, -0.5)))[0], 1e-5);
    }

    /// <summary>Its numbers are in the unit of the sum from the beginning, and a punishment has its sign.</summary>
    [Fact]
    public void A_value_function_starts_as_the_heaviest_reward_model_of_a_sum_times_its_weight()
    {
        using var other = Tiny.TrainReward(Tiny.Model, new RewardModelOptions { Seed = 2 });
        Reward length = Rewards.FromFunction((_, completion) => completion.Length), model = Rewards.FromTransformer(Tiny.Reward);
        var texts = new TokenSequences();
        texts.Add(Tiny.Reward.Encode("cat", "meow"));
        texts.Add(Tiny.Reward.Encode("dog", "no"));

        using var network = Rewards.Sum((length, 5), (Rewards.FromTransformer(other), 0.25), (Rewards.Sum((model, 4)), -0.5))
            .CreateValueFunction(Tiny.Model, trunk => trunk.Clone());

        Assert.Equal(
            Tiny.Reward.Use(scalar => RewardScoring.Score(scalar, texts)).Select(score => -2 * score), RewardScoring.Score(network!, texts),
            (expected, actual) => Math.Abs(expected - actual) < 1e-4);
        Assert.Null(Rewards.Sum((length, 1)).CreateValueFunction(Tiny.Model, trunk => trunk.Clone()));
    }

    [Fact]
    public void A_sum_without_parts_or_with_a_weight_that_is_no_number_is_an_error()
    {
        Assert.StartsWith("A sum of rewards needs at least one part.", Assert.Throws<ArgumentException>(() => Rewards.Sum()).Message);
        var reward = Rewards.FromTransformer(Tiny.Reward);
        Assert.StartsWith(
            "A weight is NaN, but must be a finite number.", Assert.Throws<ArgumentException>(() => Rewards.Sum((reward, double.NaN))).Message);
        Assert.Throws<ArgumentNullException>(() => Rewards.Sum((null!, 1)));
        Assert.Throws<ArgumentNullException>(() => Rewards.FromFunction(null!));
        Assert.Throws<ArgumentNullException>(() => Rewards.FromTransformer(null!));
        Assert.Throws<ArgumentException>(() => Rewards.FromTransformer(Tiny.Reward, " "));
    }

    [Fact]
    public void A_part_of_a_sum_that_does_not_fit_is_reported_as_it_is_alone()
    {
        var copy = _ml.Transforms.CopyColumns("Copy", "Text").Fit(_ml.Data.LoadFromEnumerable(Tiny.Documents));
        var sum = Rewards.Sum((Rewards.FromTransformer(Tiny.Reward), 1), (Rewards.FromTransformer(copy, "Quality"), 1));

        string message = Assert.Throws<ArgumentException>(
            () => _ml.Rlhf().Trainers.Ppo(Tiny.Model, sum, new PpoOptions { Episodes = 4, MaxResponseTokens = 4 })
                .Fit(_ml.Data.LoadFromEnumerable(Tiny.Prompts))).Message;

        Assert.StartsWith("The reward transformer gives no column 'Quality', but ", message);
    }
}
