using ML.Rlhf.Torch.Functional;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Functional;

public class RlooLossTests
{
    [Theory]
    [InlineData(ScalarType.Float32, 1e-5)]
    [InlineData(ScalarType.Float64, 1e-7)]
    public void Losses_and_gradients_equal_the_reference(ScalarType type, double tolerance)
    {
        var golden = Golden.Load("rl/rloo.json");
        Tensor mask = golden["mask"].Tensor(type), advantages = golden["advantages"].Tensor(type);
        Assert.Equal(2, golden["cases"].Items.Count());

        foreach (var c in golden["cases"].Items)
        {
            double low = c["epsilon_low"].Number, high = c["epsilon_high"].Number;
            var logProbs = golden["new_logprobs"].Tensor(type).requires_grad_();

            var ratio = RlooLoss.Ratio(logProbs, golden["old_logprobs"].Tensor(type), mask);
            var loss = PpoLoss.Policy(ratio, advantages, low, high).mean();
            loss.backward();

            var expected = c["expected"];
            Close.Assert(expected["loss"].Number, loss.ToDouble(), tolerance, what: "loss");
            Close.Assert(expected["grad_new_logprobs"].Tensor(type), logProbs.grad!, tolerance, absolute: tolerance / 100, "gradient");
            Close.Assert(
                expected["clip_region_mean"].Number, PpoLoss.PolicyIsClipped(ratio, advantages, low, high).to(type).mean().ToDouble(),
                relative: 1e-6, what: "clip fraction");
        }
    }

    [Fact]
    public void A_long_response_cannot_make_the_ratio_infinite_and_padding_does_not_count()
    {
        var ratio = RlooLoss.Ratio(
            tensor(new float[,] { { 0, -3, -1 }, { -1, -2, 9 } }), tensor(new float[,] { { -90, -90, -1 }, { -1, -1, -9 } }),
            tensor(new float[,] { { 1, 1, 1 }, { 1, 1, 0 } }));

        Close.Assert(tensor(new[] { MathF.Exp(20), MathF.Exp(-1) }), ratio, relative: 1e-5);
    }
}
