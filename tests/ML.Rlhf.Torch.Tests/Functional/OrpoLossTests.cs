using ML.Rlhf.Torch.Functional;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Functional;

public class OrpoLossTests
{
    /// <summary>The golden numbers were made in float32; so float64 agrees with them no better.</summary>
    [Theory]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.Float64)]
    public void Loss_and_gradients_equal_the_reference(ScalarType type)
    {
        const double Tolerance = 1e-5;
        foreach (var c in Golden.Load("rl/orpo.json")["cases"].Items)
        {
            Tensor chosen = c["chosen_mean_logps"].Tensor(type).requires_grad_(),
                rejected = c["rejected_mean_logps"].Tensor(type).requires_grad_();
            double beta = c["beta"].Number;

            var logOddsRatios = OrpoLoss.LogOddsRatio(chosen, rejected);
            var terms = OrpoLoss.OddsRatio(logOddsRatios);
            var loss = c["chosen_nll"].Number + beta * terms.mean();
            loss.backward();

            var expected = c["expected"];
            Close.Assert(expected["odds_ratio_terms"].Tensor(type), -beta * terms, Tolerance, what: "odds ratio");
            Close.Assert(expected["log_odds_mean"].Number, logOddsRatios.mean().ToDouble(), Tolerance, what: "log odds ratio");
            Close.Assert(expected["log_sigmoid_mean"].Number, -terms.mean().ToDouble(), Tolerance, what: "log sigmoid");
            Close.Assert(expected["loss"].Number, loss.ToDouble(), Tolerance, what: "loss");
            Close.Assert(expected["grad_chosen"].Tensor(type), chosen.grad!, Tolerance, absolute: Tolerance / 100,
                "gradient of the chosen");
            Close.Assert(expected["grad_rejected"].Tensor(type), rejected.grad!, Tolerance, absolute: Tolerance / 100,
                "gradient of the rejected");
        }
    }

    /// <summary>log p of 0, which float32 reaches, means infinite odds.</summary>
    [Fact]
    public void Answers_that_are_certain_or_impossible_have_finite_odds_and_gradients()
    {
        Tensor chosen = tensor(new float[] { 0, -1e-8f, -200 }).requires_grad_(),
            rejected = tensor(new float[] { -200, -1, 0 }).requires_grad_();

        var loss = OrpoLoss.OddsRatio(OrpoLoss.LogOddsRatio(chosen, rejected));
        loss.sum().backward();

        foreach (var numbers in new[] { loss, chosen.grad!, rejected.grad! })
            Assert.True(numbers.isfinite().all().ToBoolean());
        Assert.True(loss[0].ToDouble() < 1e-6 && loss[2].ToDouble() > 200);
    }

    [Fact]
    public void Near_certainty_the_odds_keep_their_digits()
    {
        double p = 1 - 1e-5;

        double ratio = OrpoLoss.LogOddsRatio(tensor((float)Math.Log(p)), tensor((float)Math.Log(0.5))).ToDouble();

        Close.Assert(Math.Log(p / 1e-5), ratio, relative: 1e-4); // log odds(½) = 0
    }
}
