using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Generation;
using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Training;

/// <summary>Scores finished episodes, one number each; higher is better.</summary>
internal delegate double[] EpisodeScorer(IReadOnlyList<Episode> episodes);

/// <summary>
/// Proximal policy optimisation for language models (Ziegler et al. 2019; Ouyang et al. 2022, step 3), in numbered steps. Four networks
/// take part: the policy, which learns; the value function, which learns to predict the return; the reference, a frozen copy of where the
/// policy began; and whatever scores the episodes. They share no storage.
/// </summary>
internal sealed class PpoTraining(
    Gpt policy, ScalarGpt value, Gpt reference, EpisodeScorer scorer, int endToken, PpoHyperparameters options, TrainingRun run)
{
    private readonly SamplingOptions _sampling = new()
    {
        MaxNewTokens = options.MaxResponseTokens,
        Temperature = (float)options.Temperature,
    };

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
        var promptRows = Endless(prompts.Count, new RandomStream(run.Seed, key: 1)).GetEnumerator();
        var shuffles = new RandomStream(run.Seed, key: 2);

        for (int update = 0; update < updates; update++)
        {
            run.ThrowIfCanceled();
            var statistics = new UpdateStatistics();

            // 1. Sample a response to each prompt, and score it. No dispose scope is open here: the scorer may be a user's code.
            var episodes = Sample(prompts, promptRows, update);
            double[] scores = Score(episodes);

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
            run.Report(Progress(update, updates, episodes, scores, statistics, learningRate, norm));
        }
    }

    private Episode[] Sample(TokenSequences prompts, IEnumerator<int> promptRows, int update)
    {
        var chosen = new int[options.EpisodesPerUpdate][];
        var streams = new RandomStream[chosen.Length];
        for (int i = 0; i < chosen.Length; i++)
        {
            promptRows.MoveNext();
            chosen[i] = prompts[promptRows.Current].ToArray();
            streams[i] = new RandomStream(run.Seed, key: 3 + (ulong)update * (ulong)chosen.Length + (ulong)i);
        }
        var responses = Sampler.Generate(
            policy, chosen, streams, endToken, _sampling, withLogProbabilities: true, checkCanceled: run.ThrowIfCanceled);
        return [.. responses.Select((r, i) => new Episode(chosen[i], r.Tokens, r.LogProbabilities, r.Ended))];
    }

    private double[] Score(Episode[] episodes)
    {
        double[] scores = scorer(episodes);
        if (scores.Length != episodes.Length)
            throw new InvalidOperationException(
                $"The reward gave {scores.Length} scores for {episodes.Length} episodes, but PPO needs one each. Leave out steps that " +
                "drop or add rows.");
        for (int i = 0; i < scores.Length; i++)
        {
            if (!double.IsFinite(scores[i]))
                throw new InvalidOperationException(
                    $"The reward of an episode is {scores[i]}, but PPO needs finite numbers. Check the reward model or function for " +
                    "empty and unusual responses.");
            if (!episodes[i].Ended)
                scores[i] = options.UnfinishedScore ?? scores[i];
        }
        return scores;
    }

    /// <summary>Log-probabilities, values, rewards and advantages of the episodes under the weights that sampled them.</summary>
    internal Rollout Evaluate(Episode[] episodes, double[] scores, UpdateStatistics statistics)
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

        statistics.Kl = (lp - refLp).sum(-1).mean().ToDouble();
        statistics.Entropy = MaskedStatistics.Mean(cat(entropies), mask).ToDouble();
        var spread = MaskedStatistics.Variance(returns, mask);
        statistics.ExplainedVariance = (1 - MaskedStatistics.Variance(returns - v, mask) / (spread + 1e-8)).ToDouble();
        statistics.LogProbDrift = Drift(episodes, lp);
        return new Rollout(
            new EpisodeBatch(batch.Ids.MoveToOuterDisposeScope(), batch.StatePositions.MoveToOuterDisposeScope(),
                batch.Responses.MoveToOuterDisposeScope(), mask.MoveToOuterDisposeScope()),
            lp.MoveToOuterDisposeScope(), v.MoveToOuterDisposeScope(), whitened.MoveToOuterDisposeScope(),
            returns.MoveToOuterDisposeScope());
    }

    /// <summary>
    /// Adds the gradient of one minibatch, one micro-batch after another. Every mean is over the tokens of the whole minibatch.
    /// </summary>
    internal void AccumulateGradients(Rollout rollout, int[] rows, UpdateStatistics statistics)
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
            statistics.PolicyLoss.Add(policyLoss.ToDouble());
            statistics.ValueLoss.Add(valueLoss.ToDouble());
            statistics.Loss.Add(loss.ToDouble());
            statistics.ApproximateKl.Add(Mean((logProbs - oldLogProbs).square() * 0.5).ToDouble());
            statistics.PolicyClipFraction.Add(Mean(PpoLoss.PolicyIsClipped(ratio, advantages, options.ClipRange)).ToDouble());
            statistics.ValueClipFraction.Add(Mean(PpoLoss.ValueIsClipped(values, oldValues, returns, options.ValueClipRange)).ToDouble());
            statistics.RatioMean.Add(Mean(ratio).ToDouble());
            var real = ratio.masked_select(episodes.Mask.to(@bool));
            statistics.RatioMinimum = Math.Min(statistics.RatioMinimum, real.min().ToDouble());
            statistics.RatioMaximum = Math.Max(statistics.RatioMaximum, real.max().ToDouble());
        }
        statistics.Steps++;
    }

    private IEnumerable<int[]> MicroBatches(int[] rows) => rows.Chunk(options.MicroBatchSize ?? rows.Length);

    private Tensor Rows(int[] rows) => tensor(Array.ConvertAll(rows, r => (long)r), device: run.Device);

    private static double Drift(Episode[] episodes, Tensor logProbs)
    {
        var fresh = logProbs.cpu().data<float>().ToArray();
        int width = (int)logProbs.shape[1];
        return episodes.SelectMany((e, i) => e.SampledLogProbs.Select((sampled, t) => Math.Abs((double)sampled - fresh[i * width + t]))).Max();
    }

    /// <summary>Prompt indices in a random order, and in a new one each time they run out.</summary>
    private static IEnumerable<int> Endless(int count, RandomStream random)
    {
        while (true)
        {
            foreach (int row in random.Permutation(count))
                yield return row;
        }
    }

    private PpoProgress Progress(
        int update, int updates, Episode[] episodes, double[] scores, UpdateStatistics s, double learningRate, double norm)
    {
        double score = scores.Average();
        return new PpoProgress
        {
            Stage = run.Stage,
            Step = update + 1,
            TotalSteps = updates,
            Loss = s.Mean(s.Loss),
            LearningRate = learningRate,
            GradientNorm = norm,
            TokensPerSecond = run.TokensPerSecond,
            Elapsed = run.Elapsed,
            Kl = s.Kl,
            KlCoefficient = options.KlCoefficient,
            Entropy = s.Entropy,
            Score = score,
            ScoreDeviation = Math.Sqrt(scores.Average(x => (x - score) * (x - score))),
            RlhfReward = score - options.KlCoefficient * s.Kl,
            ResponseLength = episodes.Average(e => e.Response.Length),
            EndRate = episodes.Average(e => e.Ended ? 1.0 : 0.0),
            ApproximateKl = s.Mean(s.ApproximateKl),
            PolicyClipFraction = s.Mean(s.PolicyClipFraction),
            RatioMean = s.Mean(s.RatioMean),
            RatioMinimum = s.RatioMinimum,
            RatioMaximum = s.RatioMaximum,
            PolicyLoss = s.Mean(s.PolicyLoss),
            ValueLoss = s.Mean(s.ValueLoss),
            ValueClipFraction = s.Mean(s.ValueClipFraction),
            ExplainedVariance = s.ExplainedVariance,
            LogProbDrift = s.LogProbDrift,
            EpisodesPerSecond = (update + 1) * (double)options.EpisodesPerUpdate / run.Elapsed.TotalSeconds,
        };
    }

    /// <summary>
    /// What is measured while an update is made. Lists hold one part per micro-batch, already divided by the minibatch's tokens.
    /// </summary>
    internal sealed class UpdateStatistics
    {
        public double Kl, Entropy, ExplainedVariance, LogProbDrift;
        public double RatioMinimum = double.PositiveInfinity, RatioMaximum = double.NegativeInfinity;
        public int Steps;

        public List<double> Loss { get; } = [];
        public List<double> PolicyLoss { get; } = [];
        public List<double> ValueLoss { get; } = [];
        public List<double> ApproximateKl { get; } = [];
        public List<double> PolicyClipFraction { get; } = [];
        public List<double> ValueClipFraction { get; } = [];
        public List<double> RatioMean { get; } = [];

        /// <summary>Mean over the optimiser steps: parts of a step add up, steps are averaged.</summary>
        public double Mean(List<double> parts) => parts.Sum() / Steps;
    }
}
