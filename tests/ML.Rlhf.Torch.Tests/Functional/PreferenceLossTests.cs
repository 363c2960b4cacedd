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

    [Theory]
    [InlineData(ScalarType.Float32, 1e-5)]
    [InlineData(ScalarType.Float64, 1e-7)]
    public void Loss_and_gradient_of_K_ranked_answers_equal_the_reference(ScalarType type, double tolerance)
    {
        var cases = Golden.Load("rl/reward_loss.json")["kwise"]["cases"].Items.ToArray();
        Assert.Equal([2, 3, 4, 5, 6, 7, 8, 9], cases.Select(c => c["K"].Integer).Distinct());
        foreach (var c in cases)
        {
            var rewards = c["rewards"].Tensor(type).unsqueeze(0).requires_grad_();

            var loss = PreferenceLoss.Ranked(rewards, Wins(c["ranks"].Tensor(type).unsqueeze(0)));
            loss.backward();

            Close.Assert(c["loss"].Number, loss.ToDouble(), tolerance, what: $"loss of {c["K"].Integer}");
            Close.Assert(c["grad"].Tensor(type), rewards.grad![0], tolerance, absolute: tolerance / 100, $"gradient of {c["K"].Integer}");
        }
    }

    /// <summary>Prompts with 3, 2 and 4 answers in one batch; what stands where there is no answer changes nothing.</summary>
    [Fact]
    public void A_batch_of_prompts_with_different_numbers_of_answers_gives_what_each_gives_alone()
    {
        float[][] rewards = [[0.5f, -1, 2], [3, -0.5f], [0.1f, 0.2f, -0.3f, 0.4f]], ranks = [[2, 1, 3], [1, 2], [1, 2, 2, 3]];
        float[] margins = [0.5f, 0, -0.25f];
        Tensor padded = full([3, 4], 7f), wins = zeros(3, 4, 4);
        for (int row = 0; row < 3; row++)
        {
            int k = rewards[row].Length;
            padded[row, ..k] = tensor(rewards[row]);
            wins[row, ..k, ..k] = Wins(tensor(ranks[row]));
        }

        var losses = PreferenceLoss.Ranked(padded, wins, tensor(margins));
        var centering = PreferenceLoss.RankedCentering(padded, wins);

        for (int row = 0; row < 3; row++)
        {
            double loss = 0, square = 0, pairs = 0;
            for (int i = 0; i < rewards[row].Length; i++)
            {
                for (int j = 0; j < rewards[row].Length; j++)
                {
                    if (ranks[row][i] >= ranks[row][j])
                        continue;
                    double difference = (double)rewards[row][i] - rewards[row][j] - margins[row];
                    loss += Math.Log(1 + Math.Exp(-difference));
                    square += Math.Pow((double)rewards[row][i] + rewards[row][j], 2);
                    pairs++;
                }
            }
            Assert.Equal(new[] { 3, 1, 5 }[row], pairs); // of the last four answers, two are tied
            Close.Assert(loss / pairs, losses[row].ToDouble(), relative: 1e-5);
            Close.Assert(square / pairs, centering[row].ToDouble(), relative: 1e-5);
        }
    }

    [Fact]
    public void A_model_that_knows_nothing_loses_ln_2_per_pair_and_per_prompt()
    {
        Close.Assert(full(3, (float)Math.Log(2)), PreferenceLoss.Pairwise(ones(3), ones(3)), relative: 1e-6);
        var wins = Wins(tensor(new float[,] { { 1, 2, 3, 4, 5 }, { 2, 2, 2, 2, 1 } }));
        Close.Assert(full(2, (float)Math.Log(2)), PreferenceLoss.Ranked(ones(2, 5), wins), relative: 1e-6);
    }

    [Fact]
    public void Scores_that_are_far_apart_overflow_nothing()
    {
        var loss = PreferenceLoss.Pairwise(tensor(new float[] { 500, -500 }), tensor(new float[] { -500, 500 }));

        Close.Assert(tensor(new float[] { 0, 1000 }), loss);
    }

    /// <summary>Lower ranks win.</summary>
    private static Tensor Wins(Tensor ranks) => (ranks.unsqueeze(-1) < ranks.unsqueeze(-2)).to(ranks.dtype);
}
