using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Generation;
using ML.Rlhf.Torch.Training;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Training;

/// <summary>What the options of PPO do, each alone.</summary>
public class PpoOptionsTests
{
    private static readonly PolicyOptions s_short = new()
    {
        Episodes = 4 * 16, EpisodesPerUpdate = 16, EpochsPerUpdate = 2, MaxResponseTokens = 8, LearningRate = 5e-3,
        LearningRateDecay = LearningRateDecay.Constant, UnfinishedScore = null,
    };

    [Fact]
    public void Beta_climbs_while_the_divergence_is_above_its_target_and_falls_while_it_is_below()
    {
        double[] Betas(double target) =>
            [.. new TinyPpo(s_short with { TargetKl = target, KlHorizon = 64 }).Run().Recorded.Updates.Select(u => u.KlCoefficient)];

        double[] climbing = Betas(target: 1e-4), falling = Betas(target: 1e4);

        Close.Assert(0.05 * (1 - 0.2 * 16 / 64), climbing[1], relative: 1e-9); // the first divergence is 0, under any target
        Assert.True(climbing[2] > climbing[1] && climbing[3] > climbing[2]);
        for (int i = 0; i < falling.Length; i++)
            Close.Assert(0.05 * Math.Pow(1 - 0.2 * 16 / 64, i), falling[i], relative: 1e-6);
    }

    [Fact]
    public void The_horizon_is_a_hundredth_of_the_run_but_at_least_an_update()
    {
        double SecondBeta(int episodes) => new TinyPpo(s_short with { Episodes = episodes, EpochsPerUpdate = 1, TargetKl = 1e6 }, onReport:
            r => { if (r.Step == 2) throw new OperationCanceledException(); }) is var ppo && Stop(ppo)
            ? ppo.Recorded.Updates.ElementAt(1).KlCoefficient : double.NaN;

        Close.Assert(0.05 * 0.8, SecondBeta(episodes: 32), relative: 1e-9);
        Close.Assert(0.05 * (1 - 0.2 * 16 / 64), SecondBeta(episodes: 6400), relative: 1e-9);

        static bool Stop(TinyPpo ppo)
        {
            try
            {
                ppo.Run();
            }
            catch (OperationCanceledException)
            {
            }
            return true;
        }
    }

    /// <summary>Without KL and values, the return of a last token is its reward: the score, whitened over all real tokens.</summary>
    [Fact]
    public void Rewards_are_whitened_over_all_real_tokens_and_keep_their_mean()
    {
        var ppo = new TinyPpo(s_short with { WhitenRewards = true, KlCoefficient = 0 }, value: new(TinyGpt.Random(), generator: null));
        var episodes = ppo.Sample(6);
        double[] scores = [.. episodes.Select((_, i) => 10.0 * i)];

        var returns = ppo.Training.Evaluate(episodes, scores, new()).Returns;

        double tokens = episodes.Sum(e => e.Response.Length), mean = scores.Sum() / tokens;
        double variance = scores.Sum(s => s * s) / tokens - mean * mean; // every other reward is 0
        for (int i = 0; i < episodes.Length; i++)
            Close.Assert((scores[i] - mean) / Math.Sqrt(variance) + mean, returns[i, episodes[i].Response.Length - 1].ToDouble(),
                relative: 1e-4);
    }

    [Fact]
    public void An_end_token_before_the_minimum_length_does_not_end_the_response()
    {
        List<Episode> seen = [];
        new TinyPpo(s_short with { MinResponseTokens = 5, EpisodesPerUpdate = 64 }, scorer: episodes =>
        {
            seen.AddRange(episodes);
            return new double[episodes.Count];
        }).Run();

        Assert.All(seen, e => Assert.InRange(e.Response.Length, 5, 8));
        Assert.Contains(seen, e => e.Response.AsSpan(0, 4).Contains(TinyPpo.EndToken)); // it was drawn, and kept
        Assert.Contains(seen, e => e.Ended && e.Response.Length < 8);
        Assert.All(seen, e => Assert.Equal(e.Ended, e.Response[^1] == TinyPpo.EndToken));
    }

    [Fact]
    public void An_unfinished_response_is_replaced_by_one_convention_and_lowered_by_the_other()
    {
        PpoProgress First(PolicyOptions options) => new TinyPpo(
            options, scorer: episodes => [.. episodes.Select(_ => 11.0)]).Run().Recorded.Updates.First();

        var replaced = First(s_short with { UnfinishedScore = -1 });
        var lowered = First(s_short with { UnfinishedPenalty = 3 });

        Assert.InRange(replaced.EndRate, 0.01, 0.99);
        Close.Assert(11 * replaced.EndRate - (1 - replaced.EndRate), replaced.Score, relative: 1e-9);
        Close.Assert(11 - 3 * (1 - lowered.EndRate), lowered.Score, relative: 1e-9);
    }

    [Fact]
    public void An_update_ends_once_the_policy_has_moved_too_far()
    {
        var options = s_short with { Episodes = 16, EpochsPerUpdate = 20, LearningRate = 1e-3 };
        var free = new TinyPpo(options).Run().Recorded.Updates.Single();
        var held = new TinyPpo(options with { MaxUpdateKl = 0.01 }).Run().Recorded.Updates.Single();
        var still = new TinyPpo(options with { MaxUpdateKl = 1e-9 }).Run().Recorded.Updates.Single();

        Assert.Equal(20, free.OptimizerSteps);
        Assert.InRange(held.OptimizerSteps, 2, 19);
        Assert.Equal(1, still.OptimizerSteps); // the first step has not moved yet
        Assert.True(held.ApproximateKl < free.ApproximateKl);
    }

    [Fact]
    public void The_finished_model_is_the_moving_average_of_the_updates()
    {
        List<double[]> weights = [];
        TinyPpo? ppo = null;
        ppo = new TinyPpo(s_short with { EmaDecay = 0.25 }, onReport: _ => weights.Add(Weights(ppo!)));
        double[] average = Weights(ppo);

        ppo.Run();

        Assert.Equal(4, weights.Count);
        for (int t = 0; t < weights.Count; t++)
        {
            double decay = Math.Min(0.25, (1.0 + t) / (10 + t)); // 0.1, 0.18, 0.25, 0.25
            average = [.. average.Zip(weights[t], (a, w) => decay * a + (1 - decay) * w)];
        }
        Assert.All(average.Zip(Weights(ppo)), pair => Assert.Equal(pair.First, pair.Second, 1e-5));
        Assert.Contains(weights[^1].Zip(Weights(ppo)), pair => Math.Abs(pair.First - pair.Second) > 1e-3);

        static double[] Weights(TinyPpo ppo) =>
            [.. ppo.Policy.parameters().SelectMany(p => p.detach().data<float>().ToArray().Select(x => (double)x))];
    }

    [Fact]
    public void Text_that_is_mixed_in_is_not_forgotten()
    {
        var text = TinyData.Sequences(rows: 4, length: 12);
        var options = s_short with { Episodes = 30 * 16, KlCoefficient = 0 };
        PpoProgress[] Run(double coefficient) =>
            [.. new TinyPpo(options with { PretrainingCoefficient = coefficient }, policy: TinyGpt.Fresh()).Run(text).Recorded.Updates];

        PpoProgress[] ignored = Run(0), mixed = Run(1);

        Assert.All(ignored, u => Assert.Equal(0, u.PretrainingGradientRatio!.Value, 1e-9));
        Assert.All(mixed, u => Assert.True(u.PretrainingGradientRatio > 0.01));
        Assert.True(mixed[^1].PretrainingLoss < ignored[^1].PretrainingLoss - 0.3);
        Assert.Null(new TinyPpo(s_short).Run().Recorded.Updates.First().PretrainingLoss);
    }

    /// <summary>The gradient of both losses in one step is the sum of the two gradients.</summary>
    [Fact]
    public void Pretraining_adds_its_gradient_to_the_one_that_is_there()
    {
        var options = s_short with { PretrainingCoefficient = 2.5, PretrainingBatchSize = 3 };
        var policy = TinyGpt.Random();
        using var optimizer = new AdamW(options, policy);
        using var noGrad = no_grad();
        Tensor Gradient(double start, PolicyOptions o)
        {
            optimizer.Gradients.fill_(start);
            using var grad = enable_grad();
            var mix = new PretrainingMix(TinyData.Sequences(5, 6), o, new RecordedRun().Run);
            mix.AccumulateGradients(policy, optimizer.Gradients);
            return optimizer.Gradients.clone();
        }

        Tensor alone = Gradient(0, options), added = Gradient(7, options);

        Close.Assert(alone + 7, added, absolute: 1e-5);
        Close.Assert(alone, Gradient(0, options with { MicroBatchSize = 2 }), absolute: 1e-6);
        Close.Assert(alone, Gradient(0, options with { PretrainingCoefficient = 1 }) * 2.5, absolute: 1e-6);
        Assert.True(alone.norm().ToDouble() > 1e-3);
    }

    [Fact]
    public void A_value_head_on_the_policys_trunk_learns_the_toy_reward_too()
    {
        var options = s_short with
        {
            Episodes = 20 * 32, EpisodesPerUpdate = 32, EpochsPerUpdate = 4, MaxResponseTokens = 6, KlCoefficient = 0.01,
            ValueFunction = ValueFunction.SharedTrunk,
        };

        var updates = new TinyPpo(options, policy: TinyGpt.Fresh()).Run().Recorded.Updates.ToArray();

        Assert.Equal(0, updates[0].ExplainedVariance, 1e-4); // a head of zeros
        Assert.InRange(updates[0].Score, 0, 0.15);
        Assert.InRange(updates[^1].Score, 0.6, 1);
        Assert.InRange(updates.Max(u => u.ExplainedVariance), 0.05, 1);
        Assert.All(updates, u => Assert.InRange(u.LogProbDrift, 0, 1e-3));
    }

    /// <summary>One forward pass of a shared trunk gives what two networks with the same weights give.</summary>
    [Fact]
    public void On_a_shared_trunk_the_rollout_is_the_same_as_with_two_equal_networks()
    {
        var shared = new TinyPpo(s_short with { ValueFunction = ValueFunction.SharedTrunk });
        var apart = new TinyPpo(s_short, value: new(shared.Policy.Clone(), generator: null));
        using (no_grad())
        {
            foreach (var value in new[] { shared.Value, apart.Value })
                value.named_parameters().Single(p => p.name == "score.weight").parameter.fill_(0.3);
        }
        var episodes = shared.Sample(6);
        double[] scores = [.. episodes.Select((_, i) => i * 0.5)];

        var one = shared.Training.Evaluate(episodes, scores, new());
        var two = apart.Training.Evaluate(episodes, scores, new());

        Close.Assert(two.Values, one.Values, absolute: 1e-5);
        Close.Assert(two.Advantages, one.Advantages, absolute: 1e-4);
        Close.Assert(two.LogProbs, one.LogProbs, absolute: 1e-5);
    }

    [Fact]
    public void Metrics_have_the_fields_names()
    {
        var metrics = new TinyPpo(s_short).Run(TinyData.Sequences(4, 12)).Recorded.Updates.Last().ToMetrics();

        foreach (string name in new[]
        {
            "loss", "lr", "objective/kl", "objective/kl_coef", "objective/entropy", "objective/scores", "objective/rlhf_reward",
            "policy/approxkl", "policy/clipfrac", "policy/ratio", "policy/ratio_var", "policy/ratio_min", "policy/ratio_max",
            "val/clipfrac", "val/var_explained", "loss/policy", "loss/value", "loss/ptx", "ptx/grad_norm_ratio", "response/length",
            "response/stop_rate", "episodes_per_second", "time/sampling", "time/scoring", "time/evaluation", "time/learning",
        })
            Assert.True(metrics.TryGetValue(name, out double value) && double.IsFinite(value), name);
    }
}
