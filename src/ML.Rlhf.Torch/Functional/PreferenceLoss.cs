using TorchSharp;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace ML.Rlhf.Torch.Functional;

/// <summary>Losses that teach a reward model people's preferences.</summary>
public static class PreferenceLoss
{
    /// <summary>
    /// −log σ(r_chosen − r_rejected − margin), the Bradley–Terry model's negative log-likelihood
    /// (Ouyang et al. 2022, eq. 1, for K = 2; the margin is Llama 2's, arXiv 2307.09288, eq. 2). ln 2 per pair when the model knows
    /// nothing.
    /// </summary>
    /// <param name="chosen">Rewards of the preferred answers (B).</param>
    /// <param name="rejected">Rewards of the other answers (B).</param>
    /// <param name="margin">By how much the chosen answer should win (B), or null for 0.</param>
    /// <returns>(B).</returns>
    public static Tensor Pairwise(Tensor chosen, Tensor rejected, Tensor? margin = null)
    {
        using var scope = NewDisposeScope();
        var difference = margin is null ? chosen - rejected : chosen - rejected - margin;
        return (-functional.logsigmoid(difference)).MoveToOuterDisposeScope();
    }

    /// <summary>
    /// (r_chosen + r_rejected)², which holds the rewards of a pair around 0 (Eisenstein et al. 2023, arXiv 2312.09244; TRL's centering).
    /// </summary>
    /// <param name="chosen">Rewards of the preferred answers (B).</param>
    /// <param name="rejected">Rewards of the other answers (B).</param>
    /// <returns>(B).</returns>
    public static Tensor Centering(Tensor chosen, Tensor rejected)
    {
        using var scope = NewDisposeScope();
        return (chosen + rejected).square().MoveToOuterDisposeScope();
    }

    /// <summary>
    /// −1/n Σ log σ(r_i − r_j − margin) over the n pairs of a prompt's K answers in which answer i was ranked above answer j
    /// (Ouyang et al. 2022, eq. 1, where n = C(K, 2)). Ties are no pairs, and n counts the pairs that are left. K answers need K
    /// forward passes for their C(K, 2) pairs, and a prompt weighs the same whatever its K. ln 2 per prompt when the model knows nothing.
    /// </summary>
    /// <param name="rewards">Rewards of the answers (B, K); any finite numbers where a prompt has fewer than K.</param>
    /// <param name="wins">1 where answer i was ranked above answer j, else 0 (B, K, K); at least one 1 for each prompt.</param>
    /// <param name="margin">By how much each better answer should win (B), or null for 0.</param>
    /// <returns>(B).</returns>
    public static Tensor Ranked(Tensor rewards, Tensor wins, Tensor? margin = null)
    {
        using var scope = NewDisposeScope();
        var perPair = Pairwise(rewards.unsqueeze(-1), rewards.unsqueeze(-2), margin?.view(-1, 1, 1)); // (B, K, K)
        return MeanOverPairs(perPair, wins).MoveToOuterDisposeScope();
    }

    /// <summary><see cref="Centering"/> for K ranked answers: its mean over the pairs of a prompt.</summary>
    /// <inheritdoc cref="Ranked"/>
    public static Tensor RankedCentering(Tensor rewards, Tensor wins)
    {
        using var scope = NewDisposeScope();
        return MeanOverPairs(Centering(rewards.unsqueeze(-1), rewards.unsqueeze(-2)), wins).MoveToOuterDisposeScope();
    }

    private static Tensor MeanOverPairs(Tensor perPair, Tensor wins) => (perPair * wins).sum([-2, -1]) / wins.sum([-2, -1]);
}
