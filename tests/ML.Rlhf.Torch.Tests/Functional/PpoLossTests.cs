using ML.Rlhf.Torch.Functional;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Functional;

public class PpoLossTests
{
    [Theory]
    [InlineData(ScalarType.Float32, 1e-5)]
    [InlineData(ScalarType.Float64, 1e-7)]
    public void Losses_and_gradients_equal_the_reference(ScalarType type, double tolerance)
    {
        foreach (var c in Golden.Load("rl/ppo_classic.json")["loss"].Items)
        {
            var mask = c["mask"].Tensor(type);
            Tensor logProbs = c["new_logprobs"].Tensor(type).requires_grad_(), values = c["vpreds"].Tensor(type).requires_grad_();
            Tensor oldLogProbs = c["old_logprobs"].Tensor(type), oldValues = c["values"].Tensor(type);
            double clip = c["cliprange"].Number, valueClip = c["cliprange_value"].Number;

            var ratio = PpoLoss.Ratio(logProbs, oldLogProbs);
            var policy = MaskedStatistics.Mean(PpoLoss.Policy(ratio, c["advantages"].Tensor(type), clip), mask);
            var value = MaskedStatistics.Mean(PpoLoss.Value(values, oldValues, c["returns"].Tensor(type), valueClip), mask);
            (policy + c["vf_coef"].Number * value).backward();

            var expected = c["expected"];
            Close.Assert(expected["pg_loss"].Number, policy.ToDouble(), tolerance, absolute: tolerance / 10, "policy loss");
            Close.Assert(expected["stats"]["loss/value"].Number, value.ToDouble(), tolerance, what: "value loss");
            Close.Assert(expected["grad_logprobs"].Tensor(type), logProbs.grad!, tolerance, absolute: tolerance / 100, "policy gradient");
            Close.Assert(expected["grad_values"].Tensor(type), values.grad!, tolerance, absolute: tolerance / 100, "value gradient");

            // What our progress record calls approximate KL, entropy and clip fractions.
            var stats = expected["stats"];
            double MaskedMean(Tensor perToken) => MaskedStatistics.Mean(perToken.to(type), mask).ToDouble();
            Close.Assert(stats["policy/approxkl"].Number, MaskedMean((logProbs - oldLogProbs).square() * 0.5), tolerance,
                what: "approximate KL");
            Close.Assert(stats["policy/entropy"].Number, MaskedMean(LogProbabilities.Entropy(c["logits"].Tensor(type))), tolerance,
                what: "entropy");
            Close.Assert(
                stats["policy/clipfrac"].Number, MaskedMean(PpoLoss.PolicyIsClipped(ratio, c["advantages"].Tensor(type), clip)), tolerance,
                what: "policy clip fraction");
            Close.Assert(
                stats["val/clipfrac"].Number, MaskedMean(PpoLoss.ValueIsClipped(values, oldValues, c["returns"].Tensor(type), valueClip)),
                tolerance,
                what: "value clip fraction");

            // The rest of what classic TRL logs.
            Tensor advantages = c["advantages"].Tensor(type), returns = c["returns"].Tensor(type);
            double total = policy.ToDouble() + c["vf_coef"].Number * value.ToDouble();
            Close.Assert(expected["vf_loss_times_coef"].Number, c["vf_coef"].Number * value.ToDouble(), tolerance);
            Close.Assert(stats["loss/policy"].Number, policy.ToDouble(), tolerance, absolute: tolerance / 10);
            Close.Assert(stats["loss/total"].Number, total, tolerance);
            Close.Assert(stats["policy/policykl"].Number, MaskedMean(KlEstimators.K1(oldLogProbs, logProbs)), tolerance * 10);
            Close.Assert(stats["policy/advantages_mean"].Number, MaskedMean(advantages), tolerance);
            Close.Assert(stats["returns/mean"].Number, MaskedMean(returns), tolerance * 10);
            Close.Assert(stats["returns/var"].Number, MaskedStatistics.Variance(returns, mask, unbiased: true).ToDouble(), tolerance);
            Close.Assert(stats["val/vpred"].Number, MaskedMean(values), tolerance);
            Close.Assert(stats["val/error"].Number, MaskedMean((values - returns).square()), tolerance);
            Close.Assert(stats["val/mean"].Number, MaskedMean(oldValues), tolerance);
            Close.Assert(stats["val/var"].Number, MaskedStatistics.Variance(oldValues, mask, unbiased: true).ToDouble(), tolerance);
        }
    }

    [Fact]
    public void One_impossible_token_cannot_make_the_ratio_infinite()
    {
        var ratio = PpoLoss.Ratio(tensor(new float[] { 0, -500 }), tensor(new float[] { -500, 0 }));

        Close.Assert(tensor(new[] { MathF.Exp(20), MathF.Exp(-20) }), ratio, relative: 1e-5);
    }

    /// <summary>Eq. 7's point: beyond the clip range there is nothing more to gain, but a harmful move is still corrected.</summary>
    [Theory]
    [InlineData(1.5f, +1f, false)]
    [InlineData(0.5f, -1f, false)]
    [InlineData(1.5f, -1f, true)]
    [InlineData(0.5f, +1f, true)]
    [InlineData(1.1f, +1f, true)]
    public void A_gradient_is_left_only_where_a_step_back_would_help_or_the_ratio_is_in_range(
        float ratioNow, float advantage, bool hasGradient)
    {
        var ratio = tensor(new[] { ratioNow }).requires_grad_();

        PpoLoss.Policy(ratio, tensor(new[] { advantage }), clipRange: 0.2).sum().backward();

        Assert.Equal(hasGradient ? -advantage : 0, ratio.grad!.item<float>());
    }
}
