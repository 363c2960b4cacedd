using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Training;

/// <summary>
/// The loop of GRPO and RLOO, in numbered steps: PPO's without a value function. What makes the two different are the advantages and the
/// loss, which they bring along.
/// </summary>
internal static class GroupLoop
{
    /// <summary>Runs all updates.</summary>
    /// <param name="policy">Trained in place.</param>
    /// <param name="reference">Frozen.</param>
    /// <param name="source">Where episodes and scores come from.</param>
    /// <param name="options">Validated hyperparameters.</param>
    /// <param name="run">Randomness, progress, cancellation.</param>
    /// <param name="evaluate">
    /// From episodes and scores to what is learned from, in the caller's dispose scope; measures the episodes.
    /// </param>
    /// <param name="accumulateGradients">Adds the gradient of some rows, and measures the step.</param>
    public static void Run(
        CausalLanguageModel policy, CausalLanguageModel reference, EpisodeSource source, GroupHyperparameters options, TrainingRun run,
        Func<Episode[], double[], UpdateStatistics, GroupRollout> evaluate,
        Action<GroupRollout, int[], UpdateStatistics> accumulateGradients)
    {
        policy.eval(); // no dropout anywhere, while gradients still flow
        reference.Freeze();
        using var compute = ComputeScope.Begin(options, policy, reference);
        using var optimizer = new AdamW(options, policy);
        using var average = options.EmaDecay is { } decay ? new WeightAverage(optimizer.Parameters, decay) : null;
        using var guard = new PolicyGuard(options, run, policy.Precision, average, kl: null, optimizer);
        int updates = Batches.Count(options.Episodes, options.EpisodesPerUpdate);
        LearningRateSchedule.WarnOfLongWarmup(options, updates, run);
        var shuffles = new RandomStream(run.Seed, key: 2);

        foreach (int update in run.Steps(
            new RunStart(options, updates, [policy], ("Prompts", source.Prompts)) { IsOver = () => guard.IsOver },
            ("policy", optimizer), ("average", average), ("guard", guard),
            ("order", new Resumable(s => s.Value("stream", ref shuffles)))))
            run.TakeOrGiveUp(() => Update(update));
        average?.Apply();

        void Update(int update)
        {
            var statistics = new UpdateStatistics();

            // 1. Sample a group of responses to each prompt, and score them. No dispose scope is open here: the scorer may be a user's
            //    code.
            var episodes = source.Sample(update, options.GroupSize);
            statistics.SamplingTime = statistics.SinceLast();
            double[] scores = source.Score(episodes);
            double[]? goldScores = source.GoldScore(episodes);
            statistics.ScoringTime = statistics.SinceLast();

            double learningRate = LearningRateSchedule.At(options, update, updates) * guard.LearningRateFactor, norm = 0;
            bool learned;
            using (NewDisposeScope())
            {
                // 2. What the models say of the episodes; advantages within each group.
                var rollout = evaluate(episodes, scores, statistics);
                statistics.EvaluationTime = statistics.SinceLast();

                run.ThrowIfCanceled(); // the last time: an update that began to learn is finished, and can be resumed after

                // 3. Unless they raise an alarm, several passes over the episodes in minibatches, in a fresh order each; until the policy
                //    has moved too far.
                learned = guard.Learn(update, RolloutMeasures.Of(statistics, episodes, scores, goldScores), statistics, () =>
                {
                    foreach (int[] rows in Batches.Minibatches(
                        episodes.Length, options.EpochsPerUpdate, options.MinibatchesPerEpoch, ref shuffles))
                    {
                        optimizer.ZeroGradients();
                        accumulateGradients(rollout, rows, statistics);
                        if (statistics.StepKl > options.MaxUpdateKl)
                            break;
                        norm = optimizer.ClipGradients();
                        optimizer.Descend(learningRate);
                        statistics.OptimizerSteps++;
                    }
                });
                statistics.LearningTime = statistics.SinceLast();
            }

            // 4. Report; then, where something was learned, take the new weights into the average.
            guard.Warn();
            run.CountTokens(episodes.Sum(e => (long)e.Prompt.Length + e.Response.Length));
            run.Report(new GroupProgress(
                statistics.Progress(run, update, updates, episodes, scores, options.KlCoefficient, learningRate, norm))
            {
                GoldScore = goldScores?.Average(),
                Alarms = guard.Alarms,
                EqualGroupRate = GroupProgress.EqualGroups(scores, options.GroupSize),
            });
            if (learned && !guard.IsOver)
                average?.Update();
        }
    }
}
