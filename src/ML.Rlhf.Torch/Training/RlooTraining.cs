using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Training;

/// <summary>
/// REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv 2402.14740), in numbered steps: a response is one action, as good as its score,
/// less the KL penalty, is above the mean of the other responses to the same prompt.
/// </summary>
internal sealed class RlooTraining(
    Gpt policy, Gpt reference, EpisodeScorer scorer, int endToken, RlooHyperparameters options, TrainingRun run,
    EpisodeScorer? goldScorer = null)
{
    /// <summary>Runs all updates.</summary>
    /// <param name="prompts">At least one; each leaves room for a whole response in the policy's context.</param>
    public void Run(TokenSequences prompts)
    {
        policy.eval(); // no dropout anywhere, while gradients still flow
        reference.Freeze();
        using var optimizer = new AdamW(options, policy);
        using var average = options.EmaDecay is { } decay ? new WeightAverage(optimizer.Parameters, decay) : null;
        using var guard = new PolicyGuard(options, run, average, optimizer);
        int updates = Batches.Count(options.Episodes, options.EpisodesPerUpdate);
        LearningRateSchedule.WarnOfLongWarmup(options, updates, run);
        var source = new EpisodeSource(policy, prompts, scorer, endToken, options, run, goldScorer);
        var shuffles = new RandomStream(run.Seed, key: 2);

        for (int update = 0; update < updates; update++)
        {
            run.ThrowIfCanceled();
            var statistics = new UpdateStatistics();

            // 1. Sample a group of responses to each prompt, and score them. No dispose scope is open here: the scorer may be a user's
            //    code.
            var episodes = source.Sample(update, options.GroupSize);
            double[] scores = source.Score(episodes);
            double[]? goldScores = source.GoldScore(episodes);

            double learningRate = LearningRateSchedule.At(options, update, updates) * guard.LearningRateFactor, norm = 0;
            using (NewDisposeScope())
            {
                // 2. What the models say of the episodes; KL penalty, and advantages within each group.
                var rollout = Evaluate(episodes, scores, statistics);

                // 3. Unless they raise an alarm, several passes over the episodes in minibatches, in a fresh order each; until the policy
                //    has moved too far.
                guard.Learn(update, RolloutMeasures.Of(statistics, episodes, scores, goldScores), statistics, () =>
                {
                    foreach (int[] rows in Batches.Minibatches(
                        episodes.Length, options.EpochsPerUpdate, options.MinibatchesPerEpoch, ref shuffles))
                    {
                        run.ThrowIfCanceled();
                        optimizer.ZeroGradients();
                        AccumulateGradients(rollout, rows, statistics);
                        if (statistics.StepKl > options.MaxUpdateKl)
                            break;
                        norm = optimizer.Step(learningRate);
                        statistics.OptimizerSteps++;
                    }
                });
            }

            // 4. Report; then, where something was learned, take the new weights into the average.
            run.CountTokens(episodes.Sum(e => (long)e.Prompt.Length + e.Response.Length));
            run.Report(new GroupProgress(
                statistics.Progress(run, update, updates, episodes, scores, options.KlCoefficient, learningRate, norm))
            {
                GoldScore = goldScores?.Average(),
                Alarms = guard.Alarms,
                EqualGroupRate = GroupProgress.EqualGroups(scores, options.GroupSize),
            });
            if (guard.IsOver)
                break;
            if (statistics.OptimizerSteps > 0)
                average?.Update();
        }
        average?.Apply();
    }

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
        return new GroupRollout(batch, logProbs.Policy, logProbs.Reference, advantages, batch.Mask);
    }

    /// <summary>
    /// Adds the gradient of one minibatch, one micro-batch after another. The mean is over the responses of the whole minibatch.
    /// </summary>
    internal void AccumulateGradients(GroupRollout rollout, int[] rows, UpdateStatistics statistics)
    {
        using var scope = NewDisposeScope();
        double tokens = rollout.Select(rows).Episodes.Mask.sum().ToDouble();
        foreach (int[] part in rows.Chunk(options.MicroBatchSize ?? rows.Length))
        {
            using var partScope = NewDisposeScope();
            var (episodes, oldLogProbs, _, advantages, mask) = rollout.Select(part);
            var logProbs = LogProbabilities.OfTokens(episodes.ResponseLogits(policy, options.Temperature), episodes.Responses); // (b, R)

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
}
