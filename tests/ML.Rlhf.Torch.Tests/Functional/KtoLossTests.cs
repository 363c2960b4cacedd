using ML.Rlhf.Torch.Functional;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Functional;

public class KtoLossTests
{
    [Theory]
    [InlineData(ScalarType.Float32, 1e-5)]
    [InlineData(ScalarType.Float64, 1e-7)]
    public void Loss_gradients_and_reference_point_equal_the_reference(ScalarType type, double tolerance)
    {
        foreach (var c in Golden.Load("rl/kto.json")["cases"].Items)
        {
            var logProbs = c["policy_logps"].Tensor(type).requires_grad_();
            var label = c["label"].Tensor(ScalarType.Bool);
            var weights = where(label, c["desirable_weight"].Number, c["undesirable_weight"].Number).to(type);

            var kl = KtoLoss.ReferencePoint(c["policy_kl_logps"].Tensor(type) - c["ref_kl_logps"].Tensor(type));
            var loss = (weights * KtoLoss.PerAnswer(logProbs - c["ref_logps"].Tensor(type), label, kl, c["beta"].Number)).mean();
            loss.backward();

            var expected = c["expected"];
            Close.Assert(expected["kl"].Number, kl.ToDouble(), tolerance, what: "KL");
            Close.Assert(expected["loss"].Number, loss.ToDouble(), tolerance, what: "loss");
            Close.Assert(expected["grad_policy_logps"].Tensor(type), logProbs.grad!, tolerance, absolute: tolerance / 100, "gradient");
        }
    }

    [Fact]
    public void The_reference_point_has_no_gradient_and_is_at_least_0()
    {
        var logRatios = tensor(new float[] { 1, 2 }).requires_grad_();

        Assert.False(KtoLoss.ReferencePoint(logRatios).requires_grad);
        Assert.Equal(1.5, KtoLoss.ReferencePoint(logRatios).ToDouble());
        Assert.Equal(0, KtoLoss.ReferencePoint(-logRatios).ToDouble());
    }
}
