using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Training;

/// <summary>What policy and reference say of episodes before anything is learned from them. All (B, R).</summary>
/// <param name="Policy">log π_old, 0 on padding.</param>
/// <param name="Reference">log π_ref, 0 on padding.</param>
/// <param name="Entropies">Entropy of the policy at each response token, 0 on padding.</param>
/// <param name="Pass">The policy's pass, to learn through; null where it was not kept.</param>
internal sealed record EpisodeLogProbs(Tensor Policy, Tensor Reference, Tensor Entropies, PolicyPass? Pass)
{
    /// <summary>Runs both models over the episodes, some rows at a time. The tensors live in the caller's dispose scope.</summary>
    /// <param name="episodes">The episodes.</param>
    /// <param name="policy">The model that sampled them.</param>
    /// <param name="reference">The model that the policy is held near.</param>
    /// <param name="options">Temperature and rows per forward pass.</param>
    public static EpisodeLogProbs Of(
        EpisodeBatch episodes, CausalLanguageModel policy, CausalLanguageModel reference, PolicyHyperparameters options)
    {
        var mask = episodes.Mask;
        Tensor logProbs = zeros_like(mask), referenceLogProbs = zeros_like(mask), entropies = zeros_like(mask);
        PolicyPass? kept = null;
        foreach (int[] rows in episodes.Parts([.. Enumerable.Range(0, (int)mask.shape[0])], options.MicroBatchSize))
        {
            using var part = NewDisposeScope();
            var index = tensor(Array.ConvertAll(rows, row => (long)row), device: mask.device);
            var some = episodes.Select(index);
            PolicyPass pass;
            using (set_grad_enabled(options.LearnsInOnePass))
                pass = PolicyPass.Of(some, policy, options.Temperature);
            using var noGrad = no_grad();
            EpisodeBatch.Put(logProbs, index, pass.LogProbs);
            EpisodeBatch.Put(entropies, index, some.Padded(pass.Predictions.Entropies()));
            EpisodeBatch.Put(referenceLogProbs, index, some.LogProbs(reference, options.Temperature));
            if (options.LearnsInOnePass)
                kept = pass.MoveToOuterDisposeScope();
        }
        return new EpisodeLogProbs(logProbs, referenceLogProbs, entropies, kept);
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
    /// <inheritdoc cref="Rollout.Pass"/>
    public PolicyPass? Pass { get; init; }

    /// <summary>Some of the episodes, only as wide as these are.</summary>
    public GroupRollout Select(Tensor rows)
    {
        var episodes = Episodes.Select(rows);
        return new GroupRollout(
            episodes, episodes.Select(LogProbs, rows), episodes.Select(ReferenceLogProbs, rows), Advantages.index_select(0, rows),
            episodes.Select(LossMask, rows));
    }
}
