using ML.Rlhf.Torch.Functional;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Functional;

public class KlEstimatorsTests
{
    [Theory]
    [InlineData(ScalarType.Float32, 1e-5)]
    [InlineData(ScalarType.Float64, 1e-7)] // the file has nine digits
    public void All_three_equal_the_reference(ScalarType type, double tolerance)
    {
        var golden = Golden.Load("rl/kl.json")["estimators"];
        Tensor logProbs = golden["logprobs"].Tensor(type), reference = golden["ref_logprobs"].Tensor(type);

        Close.Assert(golden["k1"].Tensor(type), KlEstimators.K1(logProbs, reference), tolerance, absolute: tolerance / 10, "k1");
        Close.Assert(golden["k2"].Tensor(type), KlEstimators.K2(logProbs, reference), tolerance, absolute: tolerance / 10, "k2");
        Close.Assert(golden["k3"].Tensor(type), KlEstimators.K3(logProbs, reference), tolerance, absolute: tolerance / 10, "k3");
    }

    /// <summary>Σ π(y)·k(y) over the whole vocabulary, where nothing is left to chance.</summary>
    [Fact]
    public void The_expectations_of_k1_and_k3_are_the_divergence_and_k2s_is_near_it()
    {
        var logits = Golden.Load("rl/tokens.json")["logits"].Tensor(ScalarType.Float64)[0];   // (R, V)
        var referenceLogits = logits + logits.roll(1, 0) * 0.05;
        Tensor logProbs = logits.log_softmax(-1), reference = referenceLogits.log_softmax(-1);
        var divergence = LogProbabilities.Divergence(logits, referenceLogits);
        Tensor Expectation(Tensor perToken) => (logProbs.exp() * perToken).sum(-1);

        Close.Assert(divergence, Expectation(KlEstimators.K1(logProbs, reference)), relative: 1e-10);
        Close.Assert(divergence, Expectation(KlEstimators.K3(logProbs, reference)), relative: 1e-10);
        Close.Assert(divergence, Expectation(KlEstimators.K2(logProbs, reference)), relative: 0.1);
    }

    [Fact]
    public void Between_nearly_equal_policies_k3_in_float32_is_not_lost_in_rounding()
    {
        var k3 = KlEstimators.K3(tensor(new[] { 0f, 1e-4f, -1e-3f }), zeros(3));

        Close.Assert(tensor(new[] { 0, 0.5e-8, 0.5e-6 }), k3, relative: 1e-2);
    }
}
