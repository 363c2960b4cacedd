using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf
{
    /// <summary>What reward-model training lets you choose (step 2 of InstructGPT).</summary>
    public abstract record RewardModelHyperparameters : OptimizationOptions
    {
        private protected RewardModelHyperparameters() => LearningRate = 1e-4;

        /// <summary>Passes over the preferences.</summary>
        /// <value>At least 1. 1 by default: reward models overfit from the second pass on (Ouyang et al. 2022, appendix C.2).</value>
        public int Epochs { get; init; } = 1;

        /// <summary>Pairs per step.</summary>
        /// <value>At least 1. 32 by default.</value>
        public int BatchSize { get; init; } = 32;

        /// <summary>Weight of (r_chosen + r_rejected)², which keeps rewards near 0.</summary>
        /// <value>At least 0. 0 by default; 0.01 is usual (Eisenstein et al. 2023).</value>
        public double CenteringCoefficient { get; init; }

        /// <summary>
        /// Whether the finished model's scores are shifted and scaled to mean 0 and deviation 1 over the answers that it was trained on.
        /// Gain and bias become part of the model. Without this, PPO's KL coefficient and its penalty for unfinished answers mean nothing.
        /// </summary>
        /// <value>True by default.</value>
        public bool NormalizeScores { get; init; } = true;

        internal override void Check(OptionProblems problems)
        {
            base.Check(problems);
            problems.Require(Epochs >= 1, nameof(Epochs), Epochs, "at least 1");
            problems.Require(BatchSize >= 1, nameof(BatchSize), BatchSize, "at least 1");
            problems.Require(CenteringCoefficient >= 0, nameof(CenteringCoefficient), CenteringCoefficient, "at least 0");
        }
    }
}

namespace ML.Rlhf.Torch.Training
{
    /// <summary>
    /// Reward modelling: score the answer that people preferred above the other (Ouyang et al. 2022, step 2, with pairs).
    /// </summary>
    internal static class RewardModelTraining
    {
        /// <param name="model">Trained in place.</param>
        /// <param name="preferences">At least one pair.</param>
        /// <param name="validation">Held-out pairs, measured after each epoch, or null.</param>
        /// <param name="options">Validated hyperparameters.</param>
        /// <param name="run">Device, randomness, progress.</param>
        public static void Run(ScalarGpt model, PreferenceData preferences, PreferenceData? validation,
            RewardModelHyperparameters options, TrainingRun run)
        {
            using var optimizer = new AdamW(options, model);
            int stepsPerEpoch = Batches.Count(preferences.Count, options.BatchSize), totalSteps = stepsPerEpoch * options.Epochs, step = 0;
            LearningRateSchedule.WarnOfLongWarmup(options, totalSteps, run);
            model.eval(); // no dropout: both answers of a pair go through the same network

            foreach (int[] batch in Batches.Shuffled(preferences.Count, options.BatchSize, options.Epochs, new RandomStream(run.Seed)))
            {
                run.ThrowIfCanceled();

                // 1. Mean loss over the pairs of the whole batch, one micro-batch after another.
                optimizer.ZeroGradients();
                double loss = 0;
                foreach (int[] part in batch.Chunk(options.MicroBatchSize ?? batch.Length))
                {
                    using var scope = NewDisposeScope();
                    var (chosen, rejected) = PairScores(model, preferences, part);
                    var perPair = PreferenceLoss.Pairwise(chosen, rejected);
                    if (options.CenteringCoefficient > 0)
                        perPair = perPair + options.CenteringCoefficient * PreferenceLoss.Centering(chosen, rejected);
                    var mean = perPair.sum() / (double)batch.Length;
                    mean.backward();
                    loss += mean.ToDouble();
                }

                // 2. Step.
                double learningRate = LearningRateSchedule.At(options, step, totalSteps);
                double norm = optimizer.Step(learningRate);

                // 3. Measure after each epoch, and report.
                step++;
                run.CountTokens(batch.Sum(row =>
                    (long)preferences.Chosen.Sequences.Length(row) + preferences.Rejected.Sequences.Length(row)));
                bool measure = validation is not null && step % stepsPerEpoch == 0;
                run.Report(step, totalSteps, loss, measure ? Loss(model, validation!) : null, learningRate, norm);
            }
            if (options.NormalizeScores)
                Normalize(model, preferences);
        }

        /// <summary>
        /// Scores of the chosen and the rejected answers of some pairs, (B) each, from one forward pass over all of them.
        /// </summary>
        private static (Tensor Chosen, Tensor Rejected) PairScores(ScalarGpt model, PreferenceData data, int[] pairs)
        {
            var batch = PaddedBatch.Create(
                2 * pairs.Length,
                i => i < pairs.Length ? data.Chosen.Sequences[pairs[i]] : data.Rejected.Sequences[pairs[i - pairs.Length]],
                model.Trunk.Device);
            var scores = RewardScoring.AtLastToken(model, batch);                             // (2B)
            return (scores.narrow(0, 0, pairs.Length), scores.narrow(0, pairs.Length, pairs.Length));
        }

        private static double Loss(ScalarGpt model, PreferenceData data)
        {
            using var noGrad = no_grad();
            double sum = 0;
            foreach (int[] pairs in Batches.ByLength(data.Count, RewardScoring.BatchSize, data.Chosen.Sequences.Length))
            {
                using var scope = NewDisposeScope();
                var (chosen, rejected) = PairScores(model, data, pairs);
                sum += PreferenceLoss.Pairwise(chosen, rejected).sum().ToDouble();
            }
            return sum / data.Count;
        }

        /// <summary>Gain 1/σ and bias −μ/σ over the answers (Ziegler et al. 2019, section 2), folded into the head.</summary>
        private static void Normalize(ScalarGpt model, PreferenceData data)
        {
            double[] scores = [.. RewardScoring.Score(model, data.Chosen.Sequences),
                .. RewardScoring.Score(model, data.Rejected.Sequences)];
            double mean = scores.Average(), deviation = Math.Sqrt(scores.Average(s => (s - mean) * (s - mean)));
            double gain = deviation > 1e-6 ? 1 / deviation : 1; // one answer, or a model that cannot tell any apart: only shift
            model.Rescale(gain, -mean * gain);
        }
    }

    /// <summary>Scores whole sequences with a reward model.</summary>
    internal static class RewardScoring
    {
        public const int BatchSize = 32;

        /// <summary>The score at each row's last real token, (B).</summary>
        public static Tensor AtLastToken(ScalarGpt model, PaddedBatch batch)
        {
            using var scope = NewDisposeScope();
            return model.Scores(batch.Ids).gather(-1, batch.LastPositions).squeeze(-1).MoveToOuterDisposeScope();
        }

        /// <summary>Scores every sequence, in batches of similar length.</summary>
        public static double[] Score(ScalarGpt model, TokenSequences sequences)
        {
            using var noGrad = no_grad();
            var scores = new double[sequences.Count];
            foreach (int[] rows in Batches.ByLength(sequences.Count, BatchSize, sequences.Length))
            {
                using var scope = NewDisposeScope();
                var batch = PaddedBatch.Create(rows.Length, i => sequences[rows[i]], model.Trunk.Device);
                var values = AtLastToken(model, batch).cpu().data<float>().ToArray();
                for (int i = 0; i < rows.Length; i++)
                    scores[rows[i]] = values[i];
            }
            return scores;
        }
    }
}
