using ML.Rlhf.Torch.Functional;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Functional;

public class LogProbabilitiesTests
{
    [Theory]
    [InlineData(ScalarType.Float32, 1e-6)]
    [InlineData(ScalarType.Float64, 1e-8)]
    public void Of_tokens_and_entropy_equal_the_reference(ScalarType type, double tolerance)
    {
        var golden = Golden.Load("rl/tokens.json");
        Tensor logits = golden["logits"].Tensor(type), index = golden["index"].Tensor(ScalarType.Int64);

        Close.Assert(golden["selective_log_softmax"].Tensor(type), LogProbabilities.OfTokens(logits, index), tolerance,
            what: "log-probability");
        Close.Assert(golden["entropy"].Tensor(type), LogProbabilities.Entropy(logits), tolerance, what: "entropy");
    }

    [Theory]
    [InlineData(ScalarType.Float32, 1e-6)]
    [InlineData(ScalarType.Float64, 1e-8)]
    public void Those_of_all_tokens_are_the_references_log_softmax(ScalarType type, double tolerance)
    {
        var golden = Golden.Load("sampling/softmax.json");
        var logits = golden["logits"].Tensor(type);                                           // (B, V)
        long rows = logits.shape[0], vocabulary = logits.shape[1];

        var all = LogProbabilities.OfTokens(
            logits.unsqueeze(1).expand(rows, vocabulary, vocabulary), arange(vocabulary).expand(rows, vocabulary));

        Close.Assert(golden["log_softmax"].Tensor(type), all, tolerance, absolute: tolerance / 5, "log softmax");
        Close.Assert(golden["softmax"].Tensor(type), all.exp(), tolerance * 10, what: "softmax");
        Close.Assert(golden["logsumexp"].Tensor(type), (logits - all).mean([-1]), tolerance, what: "logsumexp");
    }

    [Fact]
    public void Huge_logits_overflow_nothing()
    {
        var logits = tensor(new float[] { 1e4f, 0, -1e4f });

        Close.Assert(tensor(new[] { 0f, -1e4f, -2e4f }), LogProbabilities.OfTokens(logits.expand(3, 3), arange(3)));
        Assert.Equal(0, LogProbabilities.Entropy(logits).ToDouble());
    }

    [Fact]
    public void The_divergence_is_the_sum_over_the_vocabulary_and_0_between_equals()
    {
        var p = Golden.Load("rl/tokens.json")["logits"].Tensor(ScalarType.Float64)[0];
        var q = p.roll(1, 0) * 0.7;
        double[] expected = new double[p.shape[0]];
        for (int row = 0; row < expected.Length; row++)
        {
            double[] a = p[row].softmax(-1).data<double>().ToArray(), b = q[row].softmax(-1).data<double>().ToArray();
            expected[row] = a.Zip(b, (x, y) => x * Math.Log(x / y)).Sum();
        }

        Close.Assert(tensor(expected), LogProbabilities.Divergence(p, q), relative: 1e-9);
        Close.Assert(zeros(expected.Length), LogProbabilities.Divergence(p, p), absolute: 1e-12);
        Assert.True(LogProbabilities.Divergence(p, q).gt(0).all().ToBoolean());
    }
}
