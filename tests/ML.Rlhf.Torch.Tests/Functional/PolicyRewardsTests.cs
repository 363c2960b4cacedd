using ML.Rlhf.Torch.Functional;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Functional;

public class PolicyRewardsTests
{
    [Theory]
    [InlineData(ScalarType.Float32, 1e-5)]
    [InlineData(ScalarType.Float64, 1e-8)]
    public void Rewards_equal_the_reference(ScalarType type, double tolerance)
    {
        foreach (var c in Golden.Load("rl/ppo_classic.json")["rewards"].Items)
        {
            Tensor logProbs = c["logprobs"].Tensor(type), reference = c["ref_logprobs"].Tensor(type), mask = c["mask"].Tensor(type);
            var kl = c["kl_penalty"].Text switch
            {
                "kl" => KlEstimators.K1(logProbs, reference),
                "abs" => KlEstimators.K1(logProbs, reference).abs(), // PPO offers neither this
                "mse" => KlEstimators.K2(logProbs, reference),       // nor this
                var other => throw new NotSupportedException(other),
            };
            Close.Assert(c["kl"].Tensor(type), kl, tolerance, absolute: tolerance, "kl");

            var scores = c["scores"].Tensor(type);
            double klCoefficient = c["kl_coef"].Number;
            var rewards = PolicyRewards.WithKlPenalty(kl, zeros_like(kl), mask, scores, klCoefficient);
            Close.Assert(c["rewards"].Tensor(type) * mask, rewards, tolerance, absolute: tolerance / 10, "rewards");
            var unscored = PolicyRewards.WithKlPenalty(kl, zeros_like(kl), ones_like(mask), zeros_like(scores), klCoefficient);
            Close.Assert(c["non_score_rewards"].Tensor(type), unscored, tolerance, absolute: tolerance / 10, "rewards without score");
            if (c["kl_penalty"].Text == "kl")
                Close.Assert(rewards, PolicyRewards.WithKlPenalty(logProbs, reference, mask, scores, klCoefficient), absolute: 1e-6);
        }
    }

    /// <summary>The estimator k1 of kl.json is what each token costs.</summary>
    [Fact]
    public void The_penalty_of_a_token_is_the_coefficient_times_k1()
    {
        var golden = Golden.Load("rl/kl.json")["estimators"];
        Tensor logProbs = golden["logprobs"].Tensor(), reference = golden["ref_logprobs"].Tensor();

        var rewards = PolicyRewards.WithKlPenalty(logProbs, reference, ones_like(logProbs), zeros(logProbs.shape[0]), klCoefficient: 0.25);

        Close.Assert(golden["k1"].Tensor() * -0.25, rewards, relative: 1e-5, absolute: 1e-7);
    }

    [Fact]
    public void The_score_stands_at_the_last_real_token_and_padding_gets_nothing()
    {
        var mask = tensor(new float[,] { { 1, 1, 1 }, { 1, 0, 0 } });

        var rewards = PolicyRewards.WithKlPenalty(ones(2, 3), zeros(2, 3), mask, tensor(new float[] { 5, 7 }), klCoefficient: 0.5);

        Close.Assert(tensor(new[,] { { -0.5f, -0.5f, 4.5f }, { 6.5f, 0, 0 } }), rewards);
    }

    [Theory]
    [InlineData(ScalarType.Float32, 1e-5)]
    [InlineData(ScalarType.Float64, 1e-7)]
    public void Advantages_and_returns_equal_the_reference(ScalarType type, double tolerance)
    {
        foreach (var c in Golden.Load("rl/gae.json")["cases"].Items)
        {
            var mask = c["mask"].Tensor(type);
            Tensor values = c["values"].Tensor(type) * mask, rewards = c["rewards"].Tensor(type) * mask;
            if (c["whiten_rewards"].Boolean)
                rewards = MaskedStatistics.Whiten(rewards, mask, shiftMean: false, unbiased: true);

            var (advantages, returns) = PolicyRewards.GeneralizedAdvantages(rewards, values, c["gamma"].Number, c["lam"].Number);

            Close.Assert(c["raw_advantages"].Tensor(type), advantages, tolerance, absolute: tolerance / 2, "advantages");
            Close.Assert(c["returns"].Tensor(type), returns, tolerance, absolute: tolerance / 2, "returns");
            Close.Assert(
                c["whitened_advantages"].Tensor(type), MaskedStatistics.Whiten(advantages, mask, unbiased: true), tolerance,
                absolute: tolerance / 2, "whitened advantages");
        }
    }

    [Fact]
    public void Without_discount_returns_are_the_rewards_to_come()
    {
        var rewards = tensor(new float[,] { { 1, 2, 4 } });

        var (_, returns) = PolicyRewards.GeneralizedAdvantages(rewards, tensor(new float[,] { { 9, -3, 5 } }), gamma: 1, lambda: 1);

        Close.Assert(tensor(new float[,] { { 7, 6, 4 } }), returns, absolute: 1e-6);
    }
}
