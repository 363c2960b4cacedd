using ML.Rlhf.Torch.Functional;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Functional;

public class GrpoLossTests
{
    /// <summary>
    /// All cases of the file. What we do not offer is put together here from our parts: a bound on the unclipped ratio (delta), one ratio
    /// per response (GSPO), and the surrogates of SAPO and CISPO.
    /// </summary>
    [Theory]
    [InlineData(ScalarType.Float32, 1e-5)]
    [InlineData(ScalarType.Float64, 1e-7)]
    public void Losses_and_gradients_equal_the_reference(ScalarType type, double tolerance)
    {
        var golden = Golden.Load("rl/grpo.json");
        Tensor mask = golden["mask"].Tensor(type), advantages = golden["advantages"].Tensor(type).unsqueeze(-1);
        Tensor old = golden["old_logprobs"].Tensor(type), reference = golden["ref_logprobs"].Tensor(type);
        Assert.Equal(23, golden["cases"].Items.Count());

        foreach (var c in golden["cases"].Items)
        {
            double low = c["epsilon_low"].Number, high = c["epsilon_high"].Number, beta = c["beta"].Number;
            string name = c["loss_type"].Text, what = $"{name} {c["importance_sampling_level"].Text} β {beta} ε {low} {high}";
            var logProbs = golden["new_logprobs"].Tensor(type).requires_grad_();

            var ratio = c["importance_sampling_level"].Text == "sequence"
                ? RlooLoss.Ratio(logProbs / mask.sum(-1, keepdim: true), old / mask.sum(-1, keepdim: true), mask).unsqueeze(-1)
                : PpoLoss.Ratio(logProbs, old);
            var surrogate = name switch
            {
                "sapo" => -advantages * Sapo(ratio, advantages, golden),
                "cispo" => -ratio.detach().clamp_max(high) * advantages * logProbs,
                _ when !c["delta"].IsNull => maximum(
                    -advantages * ratio.clamp_max(c["delta"].Number), -advantages * ratio.clamp(1 - low, 1 + high)),
                _ => PpoLoss.Policy(ratio, advantages, low, high),
            };
            var weights = GrpoLoss.TokenWeights(
                mask, LossType(name), golden["max_completion_length"].Integer, golden["num_items_in_batch"].Number);
            var penalty = GrpoLoss.KlPenalty(logProbs, reference);
            var loss = ((surrogate + beta * penalty) * weights).sum();
            loss.backward();

            var expected = c["expected"];
            Close.Assert(expected["loss"].Number, loss.ToDouble(), tolerance, what: $"loss of {what}");
            Close.Assert(expected["grad_new_logprobs"].Tensor(type), logProbs.grad!, tolerance, absolute: tolerance / 100,
                $"gradient of {what}");
            if (expected.Has("kl"))
                Close.Assert(expected["kl"].Number, MaskedStatistics.Mean(penalty, mask).ToDouble(), tolerance, what: $"KL of {what}");
            if (expected.Has("clip_ratio_region_mean"))
            {
                var clipped = PpoLoss.PolicyIsClipped(ratio, advantages, low, high).to(type);
                double fraction = clipped.shape[1] == 1 ? clipped.mean().ToDouble() : MaskedStatistics.Mean(clipped, mask).ToDouble();
                Close.Assert(expected["clip_ratio_region_mean"].Number, fraction, 1e-6, what: $"clip fraction of {what}");
            }
        }
    }

    [Fact]
    public void The_penalty_of_a_token_is_k3()
    {
        var golden = Golden.Load("rl/kl.json")["estimators"];

        var penalty = GrpoLoss.KlPenalty(golden["logprobs"].Tensor(float64), golden["ref_logprobs"].Tensor(float64));

        Close.Assert(golden["k3"].Tensor(float64), penalty, relative: 1e-6, absolute: 1e-9);
    }

    /// <summary>Half of the square, to first order; exp − 1 has an error of 6e-8 in float32, and would even make it negative.</summary>
    [Fact]
    public void The_penalty_keeps_its_digits_where_the_policy_has_hardly_moved()
    {
        float[] moves = [1e-3f, -1e-3f, 1e-4f, -1e-4f, 1e-5f, -1e-5f];

        var penalty = GrpoLoss.KlPenalty(zeros(6), tensor(moves));

        Close.Assert(tensor(moves).square() / 2, penalty, relative: 0.03);
    }

    [Fact]
    public void A_token_that_the_policy_has_forgotten_cannot_make_the_penalty_infinite()
    {
        var penalty = GrpoLoss.KlPenalty(tensor(new float[] { -500, 0 }), tensor(new float[] { 0, -500 }));

        Close.Assert(tensor(new[] { MathF.Exp(20) - 21, 19 }), penalty, relative: 1e-5);
    }

    /// <summary>Two responses, of 4 tokens and of 1, of at most 5.</summary>
    [Theory]
    [InlineData(GrpoLossType.Grpo, 1 / 8.0, 1 / 2.0)]
    [InlineData(GrpoLossType.Bnpo, 1 / 5.0, 1 / 5.0)]
    [InlineData(GrpoLossType.DrGrpo, 1 / 10.0, 1 / 10.0)]
    [InlineData(GrpoLossType.Dapo, 1 / 7.0, 1 / 7.0)]
    public void A_token_counts_by_its_response_its_minibatch_the_longest_possible_or_the_update(
        GrpoLossType type, double inLong, double inShort)
    {
        var mask = tensor(new float[,] { { 1, 1, 1, 1 }, { 1, 0, 0, 0 } });

        var weights = GrpoLoss.TokenWeights(mask, type, maxResponseTokens: 5, globalTokens: 7);

        Close.Assert(mask * tensor(new[,] { { (float)inLong }, { (float)inShort } }), weights, relative: 1e-6);
    }

    [Theory]
    [InlineData(GrpoLossType.Grpo)]
    [InlineData(GrpoLossType.Bnpo)]
    [InlineData(GrpoLossType.DrGrpo)]
    [InlineData(GrpoLossType.Dapo)]
    public void Where_nothing_may_be_learned_from_nothing_counts(GrpoLossType type) =>
        Close.Assert(zeros(2, 3), GrpoLoss.TokenWeights(zeros(2, 3), type, maxResponseTokens: 5, globalTokens: 0));

    /// <summary>SAPO and CISPO average as GRPO and DAPO do.</summary>
    private static GrpoLossType LossType(string name) => name switch
    {
        "grpo" or "sapo" => GrpoLossType.Grpo,
        "bnpo" => GrpoLossType.Bnpo,
        "dr_grpo" => GrpoLossType.DrGrpo,
        "dapo" or "cispo" => GrpoLossType.Dapo,
        _ => throw new NotSupportedException(name),
    };

    private static Tensor Sapo(Tensor ratio, Tensor advantages, Golden golden)
    {
        var temperature = where(
            advantages > 0, golden["sapo_temperature_pos"].Number, golden["sapo_temperature_neg"].Number).to(ratio.dtype);
        return sigmoid(temperature * (ratio - 1)) * 4 / temperature;
    }
}
