using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Training;

/// <summary>
/// REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv 2402.14740): a response is one action, as good as its score,
/// less the KL penalty, is above the mean of the other responses to the same prompt.
/// </summary>
internal sealed class RlooTraining(
    CausalLanguageModel policy, CausalLanguageModel reference, EpisodeScorer scorer, int endToken, RlooHyperparameters options,
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

        var score = tensor(scores, dtype: ScalarType.Float32, device: run.Device);            // (B)
        var rewards = PolicyRewards.WithKlPenalty(
            logProbs.Policy, logProbs.Reference, batch.Mask, score, options.KlCoefficient).sum(-1); // (B)
        var advantages = GroupAdvantages.LeaveOneOut(rewards, options.GroupSize, options.NormalizeAdvantages).unsqueeze(-1); // (B, 1)
        return new GroupRollout(batch, logProbs.Policy, logProbs.Reference, advantages, batch.Mask) { Pass = logProbs.Pass };
    }

    /// <summary>
    /// Adds the gradient of one minibatch, one micro-batch after another. The mean is over the responses of the whole minibatch.
    /// </summary>
    internal void AccumulateGradients(GroupRollout rollout, int[] rows, UpdateStatistics statistics)
    {
        using var scope = NewDisposeScope();
        double tokens = rollout.Episodes.Mask.index_select(0, Rows(rows)).sum().ToDouble();
        var kept = rollout.Pass is { IsSpent: false } ? rollout.Pass : null;
        foreach (int[] part in kept is null ? rollout.Episodes.Parts(rows, options.MicroBatchSize) : [[.. rows.Order()]])
        {
            using var partScope = NewDisposeScope();
            var (episodes, oldLogProbs, _, advantages, mask) = rollout.Select(Rows(part));
            using var pass = kept ?? PolicyPass.Of(episodes, policy, options.Temperature);
            var logProbs = pass.LogProbs;                                                     // (b, R)

            // Raise the probability of responses that did better than the others of their group.
            var ratio = RlooLoss.Ratio(logProbs, oldLogProbs, mask).unsqueeze(-1);            // (b, 1)
            var loss = PpoLoss.Policy(ratio, advantages, options.ClipRange, options.ClipRangeHigh).sum() / rows.Length;
            loss.backward();

            // Each token is measured as its response is.
            using var noGrad = no_grad();
            statistics.AddPart(
                loss, loss, ratio.expand_as(mask), logProbs - oldLogProbs,
                PpoLoss.PolicyIsClipped(ratio, advantages, options.ClipRange, options.ClipRangeHigh).expand_as(mask), mask, tokens);
        }
        statistics.EndStep();
    }

    private Tensor Rows(int[] rows) => tensor(Array.ConvertAll(rows, row => (long)row), device: run.Device);
}
