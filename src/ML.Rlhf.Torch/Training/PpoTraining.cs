using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Generation;
using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Training;

/// <summary>
/// Proximal policy optimisation for language models (Ziegler et al. 2019; Ouyang et al. 2022, step 3), in numbered steps. Four networks
/// take part: the policy, which learns; the value function, which learns to predict the return; the reference, a frozen copy of where the
/// policy began; and whatever scores the episodes. They share no storage.
/// </summary>
internal sealed class PpoTraining(
    Gpt policy, ScalarGpt value, Gpt reference, EpisodeScorer scorer, int endToken, PpoHyperparameters options, TrainingRun run)
{
    /// <summary>Runs all updates.</summary>
    /// <param name="prompts">At least one; each leaves room for a whole response in the policy's context.</param>
    public void Run(TokenSequences prompts)
    {
        policy.eval(); // no dropout anywhere, while gradients still flow
        value.eval();
        reference.Freeze();
        using var policyOptimizer = new AdamW(options, policy); // two, so that a large value loss cannot clip the policy's gradient away
        using var valueOptimizer = new AdamW(options, value);
        int updates = Batches.Count(options.Episodes, options.EpisodesPerUpdate);
        LearningRateSchedule.WarnOfLongWarmup(options, updates, run);
        var source = new EpisodeSource(policy, prompts, scorer, endToken, options, run);
        var shuffles = new RandomStream(run.Seed, key: 2);

        for (int update = 0; update < updates; update++)
        {
            run.ThrowIfCanceled();
            var statistics = new Statistics();

            // 1. Sample a response to each prompt, and score it. No dispose scope is open here: the scorer may be a user's code.
            var episodes = source.Sample(update);
            double[] scores = source.Score(episodes);

            double learningRate = LearningRateSchedule.At(options, update, updates), norm = 0;
            using (NewDisposeScope())
            {
                // 2. What the models say of the episodes; rewards and advantages.
                var rollout = Evaluate(episodes, scores, statistics);

                // 3. Several passes over the episodes in minibatches, in a fresh order each.
                for (int epoch = 0; epoch < options.EpochsPerUpdate; epoch++)
                {
                    foreach (int[] rows in Batches.Parts(shuffles.Permutation(episodes.Length), options.MinibatchesPerEpoch))
                    {
                        run.ThrowIfCanceled();
                        policyOptimizer.ZeroGradients();
                        valueOptimizer.ZeroGradients();
                        AccumulateGradients(rollout, rows, statistics);
                        norm = policyOptimizer.Step(learningRate);
                        valueOptimizer.Step(learningRate);
                    }
                }
            }

            // 4. Report.
            run.CountTokens(episodes.Sum(e => (long)e.Prompt.Length + e.Response.Length));
            run.Report(new PpoProgress(
                statistics.Progress(run, update, updates, episodes, scores, options.KlCoefficient, learningRate, norm))
            {
                ValueLoss = statistics.ValueLoss / statistics.Steps,
                ValueClipFraction = statistics.ValueClipFraction / statistics.Steps,
                ExplainedVariance = statistics.ExplainedVariance,
            });
        }
    }

    /// <summary>Log-probabilities, values, rewards and advantages of the episodes under the weights that sampled them.</summary>
    internal Rollout Evaluate(Episode[] episodes, double[] scores, Statistics statistics)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        var batch = EpisodeBatch.Create(episodes, run.Device);
        var mask = batch.Mask;

        List<Tensor> logProbs = [], referenceLogProbs = [], values = [], entropies = [];
        foreach (int[] rows in MicroBatches([.. Enumerable.Range(0, episodes.Length)]))
        {
            using var part = NewDisposeScope();
            var episodePart = batch.Select(Rows(rows));
            var logits = episodePart.ResponseLogits(policy, options.Temperature);             // (b, R, V)
            logProbs.Add(LogProbabilities.OfTokens(logits, episodePart.Responses).MoveToOuterDisposeScope());
            entropies.Add(LogProbabilities.Entropy(logits).MoveToOuterDisposeScope());
            var referenceLogits = episodePart.ResponseLogits(reference, options.Temperature);
            referenceLogProbs.Add(LogProbabilities.OfTokens(referenceLogits, episodePart.Responses).MoveToOuterDisposeScope());
            values.Add(episodePart.Values(value).MoveToOuterDisposeScope());
        }
        Tensor lp = cat(logProbs) * mask, refLp = cat(referenceLogProbs) * mask, v = cat(values); // (B, R)

        var score = tensor(scores, dtype: ScalarType.Float32, device: run.Device);            // (B)
        var rewards = PolicyRewards.WithKlPenalty(lp, refLp, mask, score, options.KlCoefficient);
        var (advantages, returns) = PolicyRewards.GeneralizedAdvantages(rewards, v, options.Gamma, options.Lambda);
        var whitened = MaskedStatistics.Whiten(advantages, mask) * mask;

        statistics.MeasureRollout(episodes, lp, refLp, cat(entropies), mask);
        var spread = MaskedStatistics.Variance(returns, mask);
        statistics.ExplainedVariance = (1 - MaskedStatistics.Variance(returns - v, mask) / (spread + 1e-8)).ToDouble();
        return new Rollout(
            new EpisodeBatch(batch.Ids.MoveToOuterDisposeScope(), batch.StatePositions.MoveToOuterDisposeScope(),
                batch.Responses.MoveToOuterDisposeScope(), mask.MoveToOuterDisposeScope()),
            lp.MoveToOuterDisposeScope(), v.MoveToOuterDisposeScope(), whitened.MoveToOuterDisposeScope(),
            returns.MoveToOuterDisposeScope());
    }

    /// <summary>
    /// Adds the gradient of one minibatch, one micro-batch after another. Every mean is over the tokens of the whole minibatch.
    /// </summary>
    internal void AccumulateGradients(Rollout rollout, int[] rows, Statistics statistics)
    {
        using var scope = NewDisposeScope();
        double tokens = rollout.Episodes.Mask.index_select(0, Rows(rows)).sum().ToDouble();
        foreach (int[] part in MicroBatches(rows))
        {
            using var partScope = NewDisposeScope();
            var (episodes, oldLogProbs, oldValues, advantages, returns) = rollout.Select(Rows(part));
            Tensor Mean(Tensor perToken) => (perToken * episodes.Mask).sum() / tokens;

            // Policy: raise the probability of tokens that did better than the value function expected.
            var logits = episodes.ResponseLogits(policy, options.Temperature);                // (b, R, V)
            var logProbs = LogProbabilities.OfTokens(logits, episodes.Responses);             // (b, R)
            var ratio = PpoLoss.Ratio(logProbs, oldLogProbs);
            var policyLoss = Mean(PpoLoss.Policy(ratio, advantages, options.ClipRange));

            // Value: move towards the return.
            var values = episodes.Values(value);                                              // (b, R)
            var valueLoss = Mean(PpoLoss.Value(values, oldValues, returns, options.ValueClipRange));

            var loss = policyLoss + options.ValueCoefficient * valueLoss;
            if (options.EntropyCoefficient > 0)
                loss = loss - options.EntropyCoefficient * Mean(LogProbabilities.Entropy(logits));
            loss.backward();

            using var noGrad = no_grad();
            statistics.AddPart(
                loss, policyLoss, ratio, logProbs - oldLogProbs, PpoLoss.PolicyIsClipped(ratio, advantages, options.ClipRange),
                episodes.Mask, tokens);
            statistics.ValueLoss += valueLoss.ToDouble();
            statistics.ValueClipFraction += Mean(PpoLoss.ValueIsClipped(values, oldValues, returns, options.ValueClipRange)).ToDouble();
        }
        statistics.EndStep();
    }

    private IEnumerable<int[]> MicroBatches(int[] rows) => rows.Chunk(options.MicroBatchSize ?? rows.Length);

    private Tensor Rows(int[] rows) => tensor(Array.ConvertAll(rows, r => (long)r), device: run.Device);

    /// <summary>What is measured of the value function besides.</summary>
    internal sealed class Statistics : UpdateStatistics
    {
        public double ExplainedVariance, ValueLoss, ValueClipFraction;
    }
}
