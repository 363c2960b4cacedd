using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Training;

/// <summary>What policy and reference say of episodes before anything is learned from them. All (B, R).</summary>
/// <param name="Policy">log π_old, 0 on padding.</param>
/// <param name="Reference">log π_ref, 0 on padding.</param>
/// <param name="Entropies">Entropy of the policy at each response token.</param>
internal sealed record EpisodeLogProbs(Tensor Policy, Tensor Reference, Tensor Entropies)
{
    /// <summary>Runs both models over the episodes, some rows at a time.</summary>
    /// <param name="episodes">The episodes.</param>
    /// <param name="policy">The model that sampled them.</param>
    /// <param name="reference">The model that the policy is held near.</param>
    /// <param name="options">Temperature and rows per forward pass.</param>
    public static EpisodeLogProbs Of(
        EpisodeBatch episodes, CausalLanguageModel policy, CausalLanguageModel reference, PolicyHyperparameters options)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        List<Tensor> logProbs = [], referenceLogProbs = [], entropies = [];
        int count = (int)episodes.Mask.shape[0];
        foreach (int[] rows in Enumerable.Range(0, count).Chunk(options.MicroBatchSize ?? count))
        {
            using var part = NewDisposeScope();
            var some = episodes.Select(tensor(Array.ConvertAll(rows, row => (long)row), device: episodes.Mask.device));
            var logits = some.ResponseLogits(policy, options.Temperature);                    // (b, R, V)
            logProbs.Add(LogProbabilities.OfTokens(logits, some.Responses).MoveToOuterDisposeScope());
            entropies.Add(LogProbabilities.Entropy(logits).MoveToOuterDisposeScope());
            var referenceLogits = some.ResponseLogits(reference, options.Temperature);
            referenceLogProbs.Add(LogProbabilities.OfTokens(referenceLogits, some.Responses).MoveToOuterDisposeScope());
        }
        return new EpisodeLogProbs(
            (cat(logProbs) * episodes.Mask).MoveToOuterDisposeScope(), (cat(referenceLogProbs) * episodes.Mask).MoveToOuterDisposeScope(),
            cat(entropies).MoveToOuterDisposeScope());
    }
}

/// <summary>What an update of GRPO or RLOO learns from: episodes, what the models said of them before it, and how good they were.</summary>
/// <param name="Episodes">The episodes.</param>
/// <param name="LogProbs">log π_old (B, R), 0 on padding.</param>
/// <param name="ReferenceLogProbs">log π_ref (B, R), 0 on padding.</param>
/// <param name="Advantages">One for all tokens of an episode, (B, 1).</param>
/// <param name="LossMask">1 for the tokens that are learned from (B, R).</param>
internal sealed record GroupRollout(
    EpisodeBatch Episodes, Tensor LogProbs, Tensor ReferenceLogProbs, Tensor Advantages, Tensor LossMask)
{
    /// <summary>Some of the episodes.</summary>
    public GroupRollout Select(int[] rows)
    {
        var indices = tensor(Array.ConvertAll(rows, row => (long)row), device: LogProbs.device);
        return new GroupRollout(
            Episodes.Select(indices), LogProbs.index_select(0, indices), ReferenceLogProbs.index_select(0, indices),
            Advantages.index_select(0, indices), LossMask.index_select(0, indices));
    }
}
