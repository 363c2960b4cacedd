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
}
