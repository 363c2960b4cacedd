using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Training;

/// <summary>
/// Group relative policy optimisation (Shao et al. 2024, arXiv 2402.03300): PPO without a value function. A response is
/// as good as its score stands out among several responses to the same prompt, and the KL penalty is a term of the loss. The reference is
/// there even where its coefficient is 0, because the divergence is always reported.
/// </summary>
internal sealed class GrpoTraining(
    CausalLanguageModel policy, CausalLanguageModel reference, EpisodeScorer scorer, int endToken, GrpoHyperparameters options,
    TrainingRun run,
    EpisodeScorer? goldScorer = null)
{
    /// <summary>Runs all updates.</summary>
    /// <param name="prompts">At least one; each leaves room for a whole response in the policy's context.</param>
    public void Run(TokenSequences prompts) => GroupLoop.Run(
        policy, reference, new EpisodeSource(policy, prompts, scorer, endToken, options, run, goldScorer), options, run, Evaluate,
        AccumulateGradients);

    /// <summary>
    /// Log-probabilities and advantages of the episodes under the weights that sampled them. They live in the caller's dispose scope.
    /// </summary>
    internal GroupRollout Evaluate(Episode[] episodes, double[] scores, UpdateStatistics statistics)
    {
        var batch = EpisodeBatch.Create(episodes, run.Device);
        var logProbs = EpisodeLogProbs.Of(batch, policy, reference, options);
        statistics.MeasureRollout(episodes, logProbs.Policy, logProbs.Reference, logProbs.Entropies, batch.Mask);

        var advantages = GroupAdvantages.Standardized(tensor(scores), options.GroupSize, options.AdvantageScaling)
            .to(float32).to(run.Device).unsqueeze(-1);                                        // (B, 1)
        var lossMask = batch.Mask;
        if (options.MaskUnfinished)
            lossMask = lossMask * tensor(episodes.Select(e => e.Ended ? 1f : 0f).ToArray(), device: run.Device).unsqueeze(-1);
        return new GroupRollout(batch, logProbs.Policy, logProbs.Reference, advantages, lossMask) { Pass = logProbs.Pass };
    }

    /// <summary>
    /// Adds the gradient of one minibatch, one micro-batch after another. Every mean is over the whole minibatch.
    /// </summary>
    internal void AccumulateGradients(GroupRollout rollout, int[] rows, UpdateStatistics statistics)
    {
        using var scope = NewDisposeScope();
        double tokensPerStep = rollout.LossMask.sum().ToDouble() / options.MinibatchesPerEpoch;
        double tokens = rollout.Episodes.Mask.index_select(0, Rows(rows)).sum().ToDouble();
        var kept = rollout.Pass is { IsSpent: false } ? rollout.Pass : null;
        int[] order = kept is null ? rows : [.. rows.Order()];
        var minibatch = rollout.Select(Rows(order));
        var weights = GrpoLoss.TokenWeights(minibatch.LossMask, options.LossType, options.MaxResponseTokens, tokensPerStep); // (n, R)
        foreach (int[] part in minibatch.Episodes.Parts([.. Enumerable.Range(0, rows.Length)], options.MicroBatchSize))
        {
            using var partScope = NewDisposeScope();
            var index = Rows(part);
            var (episodes, oldLogProbs, referenceLogProbs, advantages, _) = minibatch.Select(index);
            var partWeights = episodes.Select(weights, index);
            using var pass = kept ?? PolicyPass.Of(episodes, policy, options.Temperature);
            var logProbs = pass.LogProbs;                                                     // (b, R)

            // Raise the probability of responses that did better than the others of their group; stay near the reference.
            var ratio = PpoLoss.Ratio(logProbs, oldLogProbs);
            var policyLoss = (PpoLoss.Policy(ratio, advantages, options.ClipRange, options.ClipRangeHigh) * partWeights).sum();
            var loss = policyLoss;
            if (options.KlCoefficient > 0)
                loss = loss + options.KlCoefficient * (GrpoLoss.KlPenalty(logProbs, referenceLogProbs) * partWeights).sum();
            loss.backward();

            using var noGrad = no_grad();
            statistics.AddPart(
                loss, policyLoss, ratio, logProbs - oldLogProbs,
                PpoLoss.PolicyIsClipped(ratio, advantages, options.ClipRange, options.ClipRangeHigh), episodes.Mask, tokens);
        }
        statistics.EndStep();
    }

    private Tensor Rows(int[] rows) => tensor(Array.ConvertAll(rows, row => (long)row), device: run.Device);
}
