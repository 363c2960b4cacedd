using ML.Rlhf.Torch.Functional;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Functional;

public class PreferenceLossTests
{
    [Theory]
    [InlineData(ScalarType.Float32, 1e-5)]
    [InlineData(ScalarType.Float64, 1e-7)]
    public void Loss_and_gradients_equal_the_reference_with_margins_and_centering(ScalarType type, double tolerance)
    {
        foreach (var c in Golden.Load("rl/reward_loss.json")["pairwise"].Items)
        {
            Tensor chosen = c["chosen"].Tensor(type).requires_grad_(), rejected = c["rejected"].Tensor(type).requires_grad_();
            var margin = c["margin"].IsNull ? null : c["margin"].Tensor(type);

            var loss = PreferenceLoss.Pairwise(chosen, rejected, margin).mean();
            if (!c["center_rewards_coefficient"].IsNull)
                loss = loss + c["center_rewards_coefficient"].Number * PreferenceLoss.Centering(chosen, rejected).mean();
            loss.backward();

            var expected = c["expected"];
            Close.Assert(expected["loss"].Number, loss.ToDouble(), tolerance, what: "loss");
            Close.Assert(expected["grad_chosen"].Tensor(type), chosen.grad!, tolerance, absolute: tolerance / 100,
                "gradient of the chosen");
            Close.Assert(expected["grad_rejected"].Tensor(type), rejected.grad!, tolerance, absolute: tolerance / 100,
                "gradient of the rejected");
        }
    }

    [Fact]
    public void A_model_that_knows_nothing_loses_ln_2_per_pair()
    {
        Close.Assert(full(3, (float)Math.Log(2)), PreferenceLoss.Pairwise(ones(3), ones(3)), relative: 1e-6);
    }

    [Fact]
    public void Scores_that_are_far_apart_overflow_nothing()
    {
        var loss = PreferenceLoss.Pairwise(tensor(new float[] { 500, -500 }), tensor(new float[] { -500, 500 }));

        Close.Assert(tensor(new float[] { 0, 1000 }), loss);
    }
}
