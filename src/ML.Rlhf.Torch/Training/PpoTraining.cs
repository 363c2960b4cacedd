using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Training;

/// <summary>
/// Proximal policy optimisation for language models (Ziegler et al. 2019; Ouyang et al. 2022, step 3), in numbered steps. Four networks
/// take part: the policy, which learns; the value function, which learns to predict the return; the reference, a frozen copy of where the
/// policy began; and whatever scores the episodes. They share no storage, but for a value function whose trunk is the policy itself.
/// </summary>
internal sealed class PpoTraining(
    CausalLanguageModel policy, ScalarGpt value, CausalLanguageModel reference, EpisodeScorer scorer, int endToken,
    PpoHyperparameters options, TrainingRun run,
    EpisodeScorer? goldScorer = null)
{
    private readonly KlController _kl = new(
        options.KlCoefficient, options.TargetKl, options.KlHorizon ?? Math.Max(options.Episodes / 100.0, options.EpisodesPerUpdate));

    /// <summary>Runs all updates.</summary>
    /// <param name="prompts">At least one; each leaves room for a whole response in the policy's context.</param>
    /// <param name="pretraining">Text to mix into the policy's gradient, or null.</param>
    public void Run(TokenSequences prompts, TokenSequences? pretraining = null)
    {
        policy.eval(); // no dropout anywhere, while gradients still flow
        value.eval();
        reference.Freeze();
        using var compute = ComputeScope.Begin(options, policy, value, reference);
        // Two optimisers, so that a large value loss cannot clip the policy's gradient away. On one trunk the two losses are one.
        bool sharedTrunk = ReferenceEquals(value.Trunk, policy);
        using var policyOptimizer = sharedTrunk ? new AdamW(options, value) : new AdamW(options, policy);
        using var valueOptimizer = sharedTrunk ? null : new AdamW(options, value);
        using var average = options.EmaDecay is { } decay ? new WeightAverage(policyOptimizer.Parameters, decay) : null;
        using var guard = new PolicyGuard(options, run, policy.Precision, average, _kl, policyOptimizer, valueOptimizer);
        int updates = Batches.Count(options.Episodes, options.EpisodesPerUpdate);
        LearningRateSchedule.WarnOfLongWarmup(options, updates, run);
        var source = new EpisodeSource(policy, prompts, scorer, endToken, options, run, goldScorer);
        var mix = pretraining is null ? null : new PretrainingMix(pretraining, options, run);
        var shuffles = new RandomStream(run.Seed, key: 2);

        foreach (int update in run.Steps(
            new RunStart(options, updates, [policy, value], ("Prompts", prompts), ("PretrainingData", pretraining))
            {
                IsOver = () => guard.IsOver,
            },
            ("policy", policyOptimizer), ("value", valueOptimizer), ("average", average), ("kl", _kl), ("guard", guard),
            ("order", new Resumable(s => s.Value("stream", ref shuffles))), ("pretraining", mix)))
            run.TakeOrGiveUp(() => Update(update));
        average?.Apply();

        void Update(int update)
        {
            var statistics = new Statistics();
            mix?.Reset();

            // 1. Sample a response to each prompt, and score it. No dispose scope is open here: the scorer may be a user's code.
            var episodes = source.Sample(update);
            statistics.SamplingTime = statistics.SinceLast();
            double[] scores = source.Score(episodes);
            double[]? goldScores = source.GoldScore(episodes);
            statistics.ScoringTime = statistics.SinceLast();

            double learningRate = LearningRateSchedule.At(options, update, updates) * guard.LearningRateFactor, norm = 0;
            double klCoefficient = _kl.Coefficient;
            bool learned;
            using (NewDisposeScope())
            {
                // 2. What the models say of the episodes; rewards and advantages.
                var rollout = Evaluate(episodes, scores, statistics);
                statistics.EvaluationTime = statistics.SinceLast();

                run.ThrowIfCanceled(); // the last time: an update that began to learn is finished, and can be resumed after

                // 3. Unless they raise an alarm, several passes over the episodes in minibatches, in a fresh order each.
                learned = guard.Learn(update, RolloutMeasures.Of(statistics, episodes, scores, goldScores), statistics, () =>
                {
                    foreach (int[] rows in Batches.Minibatches(
                        episodes.Length, options.EpochsPerUpdate, options.MinibatchesPerEpoch, ref shuffles))
                    {
                        policyOptimizer.ZeroGradients();
                        valueOptimizer?.ZeroGradients();
                        AccumulateGradients(rollout, rows, statistics);
                        if (statistics.StepKl > options.MaxUpdateKl)
                            break;
                        mix?.AccumulateGradients(policy, policyOptimizer.Gradients);
                        norm = policyOptimizer.ClipGradients(); // both, before either moves: they must be finite
                        valueOptimizer?.ClipGradients();
                        policyOptimizer.Descend(learningRate);
                        valueOptimizer?.Descend(learningRate);
                        statistics.OptimizerSteps++;
                    }
                });
                statistics.LearningTime = statistics.SinceLast();
            }

            // 4. Report; then, where something was learned, steer β and take the new weights into the average.
            guard.Warn();
            run.CountTokens(episodes.Sum(e => (long)e.Prompt.Length + e.Response.Length));
            run.Report(new PpoProgress(
                statistics.Progress(run, update, updates, episodes, scores, klCoefficient, learningRate, norm))
            {
                GoldScore = goldScores?.Average(),
                Alarms = guard.Alarms,
                ValueLoss = statistics.PerStep(statistics.ValueLoss),
                ValueClipFraction = statistics.PerStep(statistics.ValueClipFraction),
                ExplainedVariance = statistics.ExplainedVariance,
                PretrainingLoss = mix?.Loss,
                PretrainingGradientRatio = mix?.GradientRatio,
            });
            if (learned && !guard.IsOver)
            {
                _kl.Update(statistics.Kl, episodes.Length);
                average?.Update();
            }
        }
    }

    /// <summary>
    /// Log-probabilities, values, rewards and advantages of the episodes under the weights that sampled them. They live in the caller's
    /// dispose scope.
    /// </summary>
    internal Rollout Evaluate(Episode[] episodes, double[] scores, Statistics statistics)
    {
        var batch = EpisodeBatch.Create(episodes, run.Device);
        var mask = batch.Mask;
        Tensor lp = zeros_like(mask), refLp = zeros_like(mask), v = zeros_like(mask), entropies = zeros_like(mask); // (B, R)
        PolicyPass? kept = null;
        foreach (int[] rows in batch.Parts([.. Enumerable.Range(0, episodes.Length)], options.MicroBatchSize))
        {
            run.ThrowIfCanceled();
            using var partScope = NewDisposeScope();
            var index = Rows(rows);
            var part = batch.Select(index);
            PolicyPass pass;
            using (set_grad_enabled(options.LearnsInOnePass))
                pass = PolicyPass.Of(part, policy, options.Temperature, value);
            using var noGradients = no_grad();
            EpisodeBatch.Put(lp, index, pass.LogProbs);
            EpisodeBatch.Put(v, index, pass.Values!);
            EpisodeBatch.Put(entropies, index, part.Padded(pass.Predictions.Entropies()));
            EpisodeBatch.Put(refLp, index, part.LogProbs(reference, options.Temperature));
            if (options.LearnsInOnePass)
                kept = pass.MoveToOuterDisposeScope();
        }

        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        var score = tensor(scores, dtype: ScalarType.Float32, device: run.Device);            // (B)
        var rewards = PolicyRewards.WithKlPenalty(lp, refLp, mask, score, _kl.Coefficient);
        if (options.WhitenRewards)
            rewards = MaskedStatistics.Whiten(rewards, mask, shiftMean: false) * mask;
        var (advantages, returns) = PolicyRewards.GeneralizedAdvantages(rewards, v, options.Gamma, options.Lambda);
        var whitened = MaskedStatistics.Whiten(advantages, mask) * mask;

        statistics.MeasureRollout(episodes, lp, refLp, entropies, mask);
        var spread = MaskedStatistics.Variance(returns, mask);
        statistics.ExplainedVariance = (1 - MaskedStatistics.Variance(returns - v, mask) / (spread + 1e-8)).ToDouble();
        return new Rollout(batch, lp, v, whitened.MoveToOuterDisposeScope(), returns.MoveToOuterDisposeScope()) { Pass = kept };
    }

    /// <summary>
    /// Adds the gradient of one minibatch, one micro-batch after another. Every mean is over the tokens of the whole minibatch.
    /// </summary>
    internal void AccumulateGradients(Rollout rollout, int[] rows, Statistics statistics)
    {
        using var scope = NewDisposeScope();
        double tokens = rollout.Episodes.Mask.index_select(0, Rows(rows)).sum().ToDouble();
        var kept = rollout.Pass is { IsSpent: false } ? rollout.Pass : null;
        foreach (int[] part in kept is null ? rollout.Episodes.Parts(rows, options.MicroBatchSize) : [[.. rows.Order()]])
        {
            using var partScope = NewDisposeScope();
            var (episodes, oldLogProbs, oldValues, advantages, returns) = rollout.Select(Rows(part));
            Tensor Mean(Tensor perToken) => (perToken * episodes.Mask).sum() / tokens;
            using var pass = kept ?? PolicyPass.Of(episodes, policy, options.Temperature, value);
            Tensor logProbs = pass.LogProbs, values = pass.Values!;                           // (b, R)

            // Policy: raise the probability of tokens that did better than the value function expected.
            var ratio = PpoLoss.Ratio(logProbs, oldLogProbs);
            var policyLoss = Mean(PpoLoss.Policy(ratio, advantages, options.ClipRange));

            // Value: move towards the return.
            var valueLoss = Mean(PpoLoss.Value(values, oldValues, returns, options.ValueClipRange));

            var loss = policyLoss + options.ValueCoefficient * valueLoss;
            if (options.EntropyCoefficient > 0)
                loss = loss - options.EntropyCoefficient * Mean(episodes.Padded(pass.Predictions.Entropies()));
            loss.backward();

            using var noGrad = no_grad();
            statistics.AddPart(
                loss, policyLoss, ratio, logProbs - oldLogProbs, PpoLoss.PolicyIsClipped(ratio, advantages, options.ClipRange),
                episodes.Mask, tokens);
            statistics.ValueLoss += valueLoss.ToDouble();
            statistics.ValueClipFraction +=
                Mean(PpoLoss.ValueIsClipped(values, oldValues, returns, options.ValueClipRange)).ToDouble();
        }
        statistics.EndStep();
    }

    private Tensor Rows(int[] rows) => tensor(Array.ConvertAll(rows, r => (long)r), device: run.Device);

    /// <summary>What is measured of the value function besides.</summary>
    internal sealed class Statistics : UpdateStatistics
    {
        public double ExplainedVariance, ValueLoss, ValueClipFraction;
    }
}
