using System.Diagnostics.CodeAnalysis;
using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf
{
    /// <summary>What odds-ratio preference optimisation lets you choose (Hong et al. 2024, arXiv 2403.07691).</summary>
    public abstract record OrpoHyperparameters : FineTuningOptions
    {
        private protected OrpoHyperparameters() => LearningRate = 3e-4; // as fine-tuning, of which it is a kind

        /// <summary>β: weight of the odds ratio beside the likelihood of the chosen answers (the paper's λ).</summary>
        /// <value>At least 0; with 0 it is fine-tuning on the chosen answers. 0.1 by default, as in the paper and in TRL.</value>
        public double Beta { get; init; } = 0.1;

        /// <summary>Passes over the preferences.</summary>
        /// <value>At least 1. 1 by default.</value>
        public int Epochs { get; init; } = 1;

        /// <summary>Pairs per step.</summary>
        /// <value>At least 1. 32 by default.</value>
        public int BatchSize { get; init; } = 32;

        internal override void Check(OptionProblems problems)
        {
            base.Check(problems);
            problems.Require(Beta >= 0 && double.IsFinite(Beta), nameof(Beta), Beta, "a finite number of at least 0");
            problems.Require(Epochs >= 1, nameof(Epochs), Epochs, "at least 1");
            problems.Require(BatchSize >= 1, nameof(BatchSize), BatchSize, "at least 1");
        }
    }

    /// <summary>Where an ORPO run stands after a step. In brackets, the name that the field's codebases log the number under.</summary>
    public sealed record OrpoProgress : PreferenceProgress
    {
        [SetsRequiredMembers]
        internal OrpoProgress(PreferenceProgress progress) : base(progress)
        {
        }

        /// <summary>Mean −log π per token of the chosen answers, in nats: the fine-tuning part of the loss (<c>nll_loss</c>).</summary>
        public double ChosenLoss { get; init; }

        /// <summary>Mean log odds ratio of the chosen over the rejected answers (<c>log_odds_chosen</c>).</summary>
        public double LogOddsRatio { get; init; }

        private protected override void AddMetrics(Dictionary<string, double> metrics)
        {
            base.AddMetrics(metrics);
            metrics["nll_loss"] = ChosenLoss;
            metrics["log_odds_chosen"] = LogOddsRatio;
        }
    }
}

namespace ML.Rlhf.Torch.Training
{
    /// <summary>
    /// Odds-ratio preference optimisation: fine-tuning on the answers that people preferred, with a penalty where the others are as likely
    /// (Hong et al. 2024). It needs no reference, and may start from a model that was only pretrained.
    /// </summary>
    internal static class OrpoTraining
    {
        /// <param name="model">Trained in place.</param>
        /// <param name="preferences">At least one pair.</param>
        /// <param name="validation">Held-out pairs, measured after each epoch, or null.</param>
        /// <param name="options">Validated hyperparameters.</param>
        /// <param name="run">Device, randomness, progress.</param>
        public static void Run(
            CausalLanguageModel model, PreferenceData preferences, PreferenceData? validation, OrpoHyperparameters options, TrainingRun run)
        {
            model.eval(); // no dropout: both answers of a pair go through the same network
            using var compute = ComputeScope.Begin(options, model);
            using var optimizer = new AdamW(options, model);
            int stepsPerEpoch = Batches.Count(preferences.Count, options.BatchSize), totalSteps = stepsPerEpoch * options.Epochs;
            LearningRateSchedule.WarnOfLongWarmup(options, totalSteps, run);

            var batches = new ForwardReader<int[]>(
                Batches.Shuffled(preferences.Count, options.BatchSize, options.Epochs, new RandomStream(run.Seed)));

            foreach (int step in run.Steps(
                new RunStart(options, totalSteps, [model], ("Data", preferences), ("ValidationData", validation)),
                ("optimizer", optimizer)))
            {
                int[] batch = batches.At(step);

                // 1. Loss of the whole batch, one micro-batch after another.
                optimizer.ZeroGradients();
                var statistics = AccumulateGradients(model, preferences, batch, options);

                // 2. Step.
                double learningRate = LearningRateSchedule.At(options, step, totalSteps);
                double norm = optimizer.Step(learningRate);

                // 3. Measure after each epoch, and report.
                run.CountTokens(AnswerBatch.TokenCount(preferences, batch));
                bool measure = validation is not null && (step + 1) % stepsPerEpoch == 0;
                double? held = run.Validate(measure, check => Loss(model, validation!, options, check));
                run.Report(new OrpoProgress(statistics.Pairs.Progress(run, step + 1, totalSteps, held, learningRate, norm))
                {
                    ChosenLoss = statistics.ChosenLoss,
                    LogOddsRatio = statistics.LogOddsRatio,
                });
            }
        }

        /// <summary>
        /// Adds the gradient of some pairs: the mean over the chosen answers' tokens of −log π + β · the mean over pairs of the odds
        /// ratio's loss.
        /// </summary>
        internal static Statistics AccumulateGradients(
            CausalLanguageModel model, PreferenceData data, int[] batch, OrpoHyperparameters options)
        {
            var statistics = new Statistics();
            long tokens = ChosenTokens(data, batch);
            foreach (int[] part in Batches.Passes(batch, options.MicroBatchSize, data.PaddedTokenCount))
            {
                using var scope = NewDisposeScope();
                PartLoss(model, data, part, batch.Length, tokens, options, statistics).backward();
            }
            return statistics;
        }

        private static double Loss(
            CausalLanguageModel model, PreferenceData data, OrpoHyperparameters options, Action checkCanceled)
        {
            using var noGrad = no_grad();
            var statistics = new Statistics();
            long tokens = ChosenTokens(data, [.. Enumerable.Range(0, data.Count)]);
            foreach (int[] part in Batches.ByLength(data.Count, AnswerBatch.EvaluationPairs(model), data.Chosen.Sequences.Length))
            {
                checkCanceled();
                using var scope = NewDisposeScope();
                PartLoss(model, data, part, data.Count, tokens, options, statistics);
            }
            return statistics.Pairs.Loss;
        }

        /// <summary>What some pairs add to the loss of all pairs, a scalar, from one forward pass over all answers.</summary>
        private static Tensor PartLoss(
            CausalLanguageModel model, PreferenceData data, int[] part, int allPairs, long allTokens, OrpoHyperparameters options,
            Statistics statistics)
        {
            using var scope = NewDisposeScope();
            var batch = AnswerBatch.Create(data, part, model.Device);
            var logProbs = batch.LogProbs(model);                                             // (2b)
            var (chosen, rejected) = AnswerBatch.Halves(logProbs / batch.Lengths);            // means over tokens
            var logOddsRatios = OrpoLoss.LogOddsRatio(chosen, rejected);                      // (b)

            var chosenLoss = -AnswerBatch.Halves(logProbs).Chosen.sum() / (double)allTokens;
            var loss = chosenLoss + OrpoLoss.OddsRatio(logOddsRatios).sum() * (options.Beta / allPairs);

            statistics.Pairs.Add(options.Beta * chosen, options.Beta * rejected, chosen, rejected);
            statistics.Pairs.Loss += loss.ToDouble();
            statistics.ChosenLoss += chosenLoss.ToDouble();
            statistics.LogOddsRatio += logOddsRatios.sum().ToDouble() / allPairs;
            return loss.MoveToOuterDisposeScope();
        }

        private static long ChosenTokens(PreferenceData data, int[] rows) =>
            rows.Sum(row => (long)data.Chosen.Sequences.Length(row) - data.Chosen.PromptLengths[row]);

        /// <summary>What one step measures.</summary>
        internal sealed class Statistics
        {
            public readonly PairStatistics Pairs = new();
            public double ChosenLoss, LogOddsRatio;
        }
    }
}
