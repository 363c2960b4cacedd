using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Training;

/// <summary>How far a policy has moved from its reference, on responses that the policy sampled.</summary>
internal static class PolicyDivergence
{
    /// <summary>
    /// Σ_t KL(π(·|s_t) ‖ π_ref(·|s_t)) of each episode, in nats. The divergence of each step is summed over the whole vocabulary, and not
    /// only read at the sampled token: the same expectation with less noise, and never below 0.
    /// </summary>
    public static double[] PerEpisode(
        CausalLanguageModel policy, CausalLanguageModel reference, IReadOnlyList<Episode> episodes, double temperature)
    {
        using var noGrad = no_grad();
        var divergences = new double[episodes.Count];
        int batchSize = NextTokenLoss.EvaluationRows(policy.Architecture);
        foreach (int[] rows in Batches.ByLength(episodes.Count, batchSize, i => episodes[i].Prompt.Length + episodes[i].Response.Length))
        {
            using var scope = NewDisposeScope();
            var batch = EpisodeBatch.Create([.. rows.Select(i => episodes[i])], policy.Device);
            var perToken = LogProbabilities.Divergence(
                batch.ResponseLogits(policy, temperature), batch.ResponseLogits(reference, temperature));
            var perEpisode = batch.Padded(perToken).sum(-1).cpu().data<float>().ToArray();
            for (int i = 0; i < rows.Length; i++)
                divergences[rows[i]] = Math.Max(0, perEpisode[i]); // but for rounding it is
        }
        return divergences;
    }
}
