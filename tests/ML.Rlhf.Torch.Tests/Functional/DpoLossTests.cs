using ML.Rlhf.Torch.Functional;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Functional;

public class DpoLossTests
{
    /// <summary>All of TRL's losses: those that we have, and those that are made of them.</summary>
    [Theory]
    [InlineData(ScalarType.Float32, 1e-5)]
    [InlineData(ScalarType.Float64, 1e-7)]
    public void Loss_and_gradients_equal_the_reference(ScalarType type, double tolerance)
    {
        var golden = Golden.Load("rl/dpo.json");
        Tensor Input(string name) => golden[name].Tensor().to(type, copy: true); // inputs were float32 numbers
        Tensor chosenLengths = golden["chosen_lengths"].Tensor(type), rejectedLengths = golden["rejected_lengths"].Tensor(type);
        foreach (var c in golden["current"]["cases"].Items.Concat(golden["classic"]["cases"].Items))
        {
            Tensor chosen = Input("policy_chosen_logps").requires_grad_(),
                rejected = Input("policy_rejected_logps").requires_grad_(),
                chosenReference = Input("ref_chosen_logps"), rejectedReference = Input("ref_rejected_logps");
            var (name, beta, smoothing, expected) =
                (c["loss_type"].Text, c["beta"].Number, c["label_smoothing"].Number, c["expected"]);
            string what = $"{name}, beta {beta}, smoothing {smoothing}";
            bool isCurrent = expected.Has("loss");
            Tensor h = chosen - chosenReference, g = rejected - rejectedReference; // the log-ratios
            if (name == "sigmoid_norm" || name == "ipo" && isCurrent)
                (h, g) = (h / chosenLengths, g / rejectedLengths);

            var perPair = name is "aot"
                ? AlignedInDistribution(chosen - rejected, chosenReference - rejectedReference, beta, smoothing)
                : Loss(name, h, g, beta, smoothing, golden["current"]["discopop_tau"].Number);
            perPair.mean().backward();

            if (isCurrent)
                Close.Assert(expected["loss"].Number, perPair.mean().ToDouble(), tolerance, what: what);
            if (expected.Has("per_sequence"))
                Close.Assert(expected["per_sequence"].Tensor(type), perPair, tolerance, absolute: tolerance / 10, what: what);
            if (expected.Has("losses"))
                Close.Assert(expected["losses"].Tensor(type), perPair, tolerance, what: what);
            Close.Assert(expected["grad_chosen"].Tensor(type), chosen.grad!, tolerance, absolute: tolerance / 10, what);
            Close.Assert(expected["grad_rejected"].Tensor(type), rejected.grad!, tolerance, absolute: tolerance / 10, what);
            if (!isCurrent)
            {
                Close.Assert(expected["chosen_rewards"].Tensor(type), beta * (chosen - chosenReference), tolerance, what: what);
                Close.Assert(expected["rejected_rewards"].Tensor(type), beta * (rejected - rejectedReference), tolerance, what: what);
            }
        }
    }

    private static Tensor Loss(string name, Tensor h, Tensor g, double beta, double smoothing, double tau)
    {
        var zero = zeros_like(h);
        return name switch
        {
            "sigmoid" or "sigmoid_norm" => DpoLoss.Sigmoid(h, g, beta, smoothing),
            "robust" => DpoLoss.Robust(h, g, beta, smoothing),
            "hinge" => DpoLoss.Hinge(h, g, beta),
            "ipo" => DpoLoss.Ipo(h, g, beta),

            // Not ours to choose, but made of ours.
            "aot_unpaired" => AlignedInDistribution(h, g, beta, smoothing),
            "nca_pair" => DpoLoss.Sigmoid(h, zero, beta) + 0.5 * (DpoLoss.Sigmoid(zero, h, beta) + DpoLoss.Sigmoid(zero, g, beta)),
            "bco_pair" => DpoLoss.Sigmoid(h, zero, beta) + DpoLoss.Sigmoid(zero, g, beta), // with a running mean of 0
            "sppo_hard" => DpoLoss.Ipo(h, zero, beta) + DpoLoss.Ipo(zero, g, beta),
            "apo_zero" => Judged(h, true, beta) + Judged(g, false, beta),
            "apo_down" => Judged(h, false, beta) + Judged(h - g, true, beta),
            "exo_pair" => ExactPair(h, g, beta, smoothing),
            "discopop" => Discovered(h, g, beta, tau),
            _ => throw new NotSupportedException(name),
        };
    }

    /// <summary>KTO's loss with its reference point at 0, as APO has it (D'Oosterlinck et al. 2024).</summary>
    private static Tensor Judged(Tensor h, bool desirable, double beta) =>
        KtoLoss.PerAnswer(h, full(h.shape, desirable, dtype: ScalarType.Bool), zeros(1, dtype: h.dtype), beta);

    /// <summary>AOT (Melnyk et al. 2024): the distributions are compared, sorted, and not the pairs.</summary>
    private static Tensor AlignedInDistribution(Tensor a, Tensor b, double beta, double smoothing) =>
        DpoLoss.Sigmoid(a.sort().Values, b.sort().Values, beta, smoothing);

    /// <summary>EXO (Ji et al. 2024): the reverse divergence between the pair's two probabilities and its smoothed label.</summary>
    private static Tensor ExactPair(Tensor h, Tensor g, double beta, double smoothing)
    {
        Tensor right = -DpoLoss.Sigmoid(h, g, beta), wrong = -DpoLoss.Sigmoid(g, h, beta);
        return right.exp() * (right - Math.Log(1 - smoothing)) + wrong.exp() * (wrong - Math.Log(smoothing));
    }

    /// <summary>DiscoPOP (Lu et al. 2024): the logistic and the exponential loss, mixed by how sure the pair is.</summary>
    private static Tensor Discovered(Tensor h, Tensor g, double beta, double tau)
    {
        var logits = beta * (h - g);
        var sure = (logits / tau).sigmoid();
        return DpoLoss.Sigmoid(h, g, beta) * (1 - sure) + (-logits).exp() * sure;
    }

    [Fact]
    public void A_policy_that_is_its_reference_loses_ln_2_per_pair_and_still_has_a_gradient()
    {
        var chosen = zeros(3).requires_grad_();

        var loss = DpoLoss.Sigmoid(chosen, zeros(3), beta: 0.1);
        loss.sum().backward();

        Close.Assert(full(3, (float)Math.Log(2)), loss, relative: 1e-6);
        Close.Assert(full(3, -0.05f), chosen.grad!, relative: 1e-6);
    }

    /// <summary>What the robust loss is for: its mean over flipped labels is the loss without flips.</summary>
    [Fact]
    public void The_robust_loss_is_unbiased_under_flipped_labels()
    {
        Tensor h = tensor(new[] { 1.0, -2, 0.3 }), g = tensor(new[] { 0.5, 1, -4 });
        const double Flipped = 0.2;

        var mean = (1 - Flipped) * DpoLoss.Robust(h, g, 0.7, Flipped) + Flipped * DpoLoss.Robust(g, h, 0.7, Flipped);

        Close.Assert(DpoLoss.Sigmoid(h, g, 0.7), mean, relative: 1e-12);
    }

    [Fact]
    public void Answers_that_are_far_apart_overflow_nothing()
    {
        Tensor h = tensor(new float[] { 5000, -5000 }), g = -h;

        Close.Assert(tensor(new float[] { 0, 1000 }), DpoLoss.Sigmoid(h, g, 0.1));
        Close.Assert(tensor(new float[] { 0, 1001 }), DpoLoss.Hinge(h, g, 0.1));
    }
}
