using Microsoft.ML;

namespace ML.Rlhf.Tests.Rloo;

public sealed class RlooTrainerTests
{
    private readonly MLContext _ml = new(seed: 1);

    private static RlooOptions Options => new()
    {
        Episodes = 16,
        EpisodesPerUpdate = 8,
        GroupSize = 4,
        MaxResponseTokens = 5,
        LearningRate = 1e-3,
        UnfinishedScore = null,
    };

    [Fact]
    public void It_gets_better_at_what_a_function_rewards()
    {
        var progress = new ProgressRecords();
        var options = Options with
        {
            Episodes = 32 * 30, EpisodesPerUpdate = 32, EpochsPerUpdate = 4, MaxResponseTokens = 6,
            LearningRate = 3e-3, KlCoefficient = 0.01, Progress = progress,
        };

        using var policy = _ml.Rlhf().Trainers.Rloo(Tiny.Model, (_, answer) => answer.Count(c => c == 'a'), options).Fit(Prompts);

        double[] scores = [.. progress.Cast<GroupProgress>().Select(p => p.Score)];
        Assert.InRange(scores[..3].Average(), 0, 1.5);
        Assert.InRange(scores[^3..].Average(), scores[..3].Average() + 1, 6);
        Assert.InRange(_ml.Rlhf().EvaluatePolicy(policy, Tiny.Model, Prompts).Kl, 0.1, 100);
    }

    [Fact]
    public void A_function_gets_all_answers_to_a_prompt_together()
    {
        var seen = new List<string>();

        _ml.Rlhf().Trainers.Rloo(Tiny.Model, (prompt, _) => { seen.Add(prompt); return seen.Count; }, Options).Fit(Prompts).Dispose();

        Assert.Equal(16, seen.Count);
        Assert.All(seen.Chunk(4), group => Assert.Single(group.Distinct()));
        Assert.Equal(4, seen.Distinct().Count());
    }

    [Fact]
    public void A_reward_model_or_a_sum_of_rewards_scores_and_stays_as_it_is()
    {
        var progress = new ProgressRecords();
        var before = Tiny.Weights(Tiny.Reward);
        var rewards = _ml.Rlhf().Rewards;
        var sum = rewards.Sum((rewards.FromTransformer(Tiny.Reward), 1), (rewards.FromFunction((_, _) => 1), 100));

        using var policy = _ml.Rlhf().Trainers.Rloo(Tiny.Model, Tiny.Reward, Options with { Progress = progress }).Fit(Prompts);
        using var ofSum = _ml.Rlhf().Trainers.Rloo(Tiny.Model, sum, Options with { Progress = progress }).Fit(Prompts);

        Assert.Equal(before, Tiny.Weights(Tiny.Reward));
        Assert.NotEqual(Tiny.Weights(Tiny.Model), Tiny.Weights(policy));
        double[] scores = [.. progress.Cast<GroupProgress>().Select(p => p.Score)];
        Assert.All(scores[..2], score => Assert.InRange(score, -10, 10));
        Assert.Equal(scores[0] + 100, scores[2], 1e-4);
    }

    private IDataView Prompts => _ml.Data.LoadFromEnumerable(Tiny.Prompts);
}
