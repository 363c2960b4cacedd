using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf
{
    /// <summary>How DPO's loss looks at the difference Δ of the two answers' log-ratios log π − log π_ref.</summary>
    public enum DpoLossType
    {
        /// <summary>
        /// −log σ(βΔ): DPO as it was published (Rafailov et al. 2023). With <see cref="DpoHyperparameters.LabelSmoothing"/>, conservative
        /// DPO (Mitchell 2023).
        /// </summary>
        Sigmoid,

        /// <summary>max(0, 1 − βΔ): a pair that is told apart well enough teaches nothing more (SLiC; Liu et al. 2023).</summary>
        Hinge,

        /// <summary>
        /// (Δ − 1/(2β))² with log-ratios per token: a margin to reach and not to exceed, for labels without noise, which let
        /// <see cref="Sigmoid"/> overfit (Azar et al. 2023).
        /// </summary>
        Ipo,

        /// <summary>
        /// <see cref="Sigmoid"/> without the bias that flipped labels give it, where <see cref="DpoHyperparameters.LabelSmoothing"/> is the
        /// part that is flipped (Chowdhury et al. 2024).
        /// </summary>
        Robust,
    }

    /// <summary>What direct preference optimisation lets you choose (Rafailov et al. 2023, arXiv 2305.18290).</summary>
    public abstract record DpoHyperparameters : FineTuningOptions
    {
        private protected DpoHyperparameters() => LearningRate = 1e-4; // 1e-6 is usual for billions of parameters (see DECISIONS.md)

        /// <summary>The loss.</summary>
        /// <value><see cref="DpoLossType.Sigmoid"/> by default.</value>
        public DpoLossType LossType { get; init; } = DpoLossType.Sigmoid;

        /// <summary>β: how dear it is to move away from the model that training starts from.</summary>
        /// <value>Above 0. 0.1 by default, as in the paper and in TRL. For <see cref="DpoLossType.Ipo"/> this is the paper's τ.</value>
        public double Beta { get; init; } = 0.1;

        /// <summary>The part of the labels that is taken to be the wrong way round.</summary>
        /// <value>In [0, 0.5), 0 by default. Only <see cref="DpoLossType.Sigmoid"/> and <see cref="DpoLossType.Robust"/> have it.</value>
        public double LabelSmoothing { get; init; }

        /// <summary>Passes over the preferences.</summary>
        /// <value>At least 1. 1 by default, as in the paper: from the second pass on the pairs are learned by heart.</value>
        public int Epochs { get; init; } = 1;

        /// <summary>Pairs per step.</summary>
        /// <value>At least 1. 32 by default; the paper has 64.</value>
        public int BatchSize { get; init; } = 32;

        internal override void Check(OptionProblems problems)
        {
            base.Check(problems);
            problems.Require(Enum.IsDefined(LossType), nameof(LossType), LossType, "Sigmoid, Hinge, Ipo or Robust");
            problems.Require(Beta > 0 && double.IsFinite(Beta), nameof(Beta), Beta, "a finite number above 0");
            if (LossType is DpoLossType.Hinge or DpoLossType.Ipo)
                problems.Require(LabelSmoothing == 0, nameof(LabelSmoothing), LabelSmoothing, $"0 with the loss {LossType}");
            else
                problems.Require(LabelSmoothing is >= 0 and < 0.5, nameof(LabelSmoothing), LabelSmoothing, "in [0, 0.5)");
            problems.Require(Epochs >= 1, nameof(Epochs), Epochs, "at least 1");
            problems.Require(BatchSize >= 1, nameof(BatchSize), BatchSize, "at least 1");
        }
    }
}

namespace ML.Rlhf.Torch.Training
{
    /// <summary>Preferences, and log π_ref of each answer.</summary>
    internal sealed record ReferencedPreferences(PreferenceData Pairs, float[] ChosenLogProbs, float[] RejectedLogProbs)
    {
        public static ReferencedPreferences Create(CausalLanguageModel reference, PreferenceData pairs, TrainingRun run) => new(
            pairs, AnswerBatch.LogProbs(reference, pairs.Chosen, run), AnswerBatch.LogProbs(reference, pairs.Rejected, run));
    }

    /// <summary>
    /// Direct preference optimisation: make the answer that people preferred more likely than the other, measured against the model that
    /// training starts from (Rafailov et al. 2023). No reward model, no sampling.
    /// </summary>
    internal static class DpoTraining
    {
        /// <param name="model">Trained in place.</param>
        /// <param name="preferences">At least one pair.</param>
        /// <param name="validation">Held-out pairs, measured after each epoch, or null.</param>
        /// <param name="options">Validated hyperparameters.</param>
        /// <param name="run">Device, randomness, progress.</param>
        public static void Run(
            CausalLanguageModel model, PreferenceData preferences, PreferenceData? validation, DpoHyperparameters options, TrainingRun run)
        {
            using var compute = ComputeScope.Begin(options, model);
            model.eval(); // no dropout: policy and reference, chosen and rejected go through the same network

            // 1. What the reference says of each answer: it is the model as it is now, and does not change. So one pass before training
            //    is enough, and no second model stays in memory.
            var pairs = ReferencedPreferences.Create(model, preferences, run);
            var held = validation is null ? null : ReferencedPreferences.Create(model, validation, run);

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

                // 2. Mean loss over the pairs of the whole batch, one micro-batch after another.
                optimizer.ZeroGradients();
                var statistics = AccumulateGradients(model, pairs, batch, options);

                // 3. Step.
                double learningRate = LearningRateSchedule.At(options, step, totalSteps);
                double norm = optimizer.Step(learningRate);

                // 4. Measure after each epoch, and report.
                run.CountTokens(AnswerBatch.TokenCount(preferences, batch));
                bool measure = held is not null && (step + 1) % stepsPerEpoch == 0;
                double? heldLoss = run.Validate(measure, check => Loss(model, held!, options, check));
                run.Report(statistics.Progress(run, step + 1, totalSteps, heldLoss, learningRate, norm));
            }
        }

        /// <summary>Adds the gradient of the mean loss over some pairs.</summary>
        internal static PairStatistics AccumulateGradients(
            CausalLanguageModel model, ReferencedPreferences data, int[] batch, DpoHyperparameters options)
        {
            var statistics = new PairStatistics();
            foreach (int[] part in Batches.Passes(batch, options.MicroBatchSize, data.Pairs.PaddedTokenCount))
            {
                using var scope = NewDisposeScope();
                var mean = PerPair(model, data, part, options, statistics).sum() / (double)batch.Length;
                mean.backward();
                statistics.Loss += mean.ToDouble();
            }
            return statistics;
        }

        private static double Loss(
            CausalLanguageModel model, ReferencedPreferences data, DpoHyperparameters options, Action checkCanceled)
        {
            using var noGrad = no_grad();
            double sum = 0;
            var pairs = data.Pairs;
            foreach (int[] rows in Batches.ByLength(pairs.Count, AnswerBatch.EvaluationPairs(model), pairs.Chosen.Sequences.Length))
            {
                checkCanceled();
                using var scope = NewDisposeScope();
                sum += PerPair(model, data, rows, options, new PairStatistics()).sum().ToDouble();
            }
            return sum / pairs.Count;
        }

        /// <summary>The loss of each pair, (b), from one forward pass over all answers.</summary>
        private static Tensor PerPair(
            CausalLanguageModel model, ReferencedPreferences data, int[] rows, DpoHyperparameters options, PairStatistics statistics)
        {
            using var scope = NewDisposeScope();
            var batch = AnswerBatch.Create(data.Pairs, rows, model.Device);
            float[] reference = [.. rows.Select(row => data.ChosenLogProbs[row]), .. rows.Select(row => data.RejectedLogProbs[row])];
            var logProbs = batch.LogProbs(model);                                             // (2b)
            var logRatios = logProbs - tensor(reference, device: model.Device);               // (2b)

            var (chosenLogProbs, rejectedLogProbs) = AnswerBatch.Halves(logProbs);
            var (chosenRewards, rejectedRewards) = AnswerBatch.Halves(options.Beta * logRatios);
            statistics.Add(chosenRewards, rejectedRewards, chosenLogProbs, rejectedLogProbs);

            var (chosen, rejected) = AnswerBatch.Halves(options.LossType == DpoLossType.Ipo ? logRatios / batch.Lengths : logRatios);
            var loss = options.LossType switch
            {
                DpoLossType.Hinge => DpoLoss.Hinge(chosen, rejected, options.Beta),
                DpoLossType.Ipo => DpoLoss.Ipo(chosen, rejected, options.Beta),
                DpoLossType.Robust => DpoLoss.Robust(chosen, rejected, options.Beta, options.LabelSmoothing),
                _ => DpoLoss.Sigmoid(chosen, rejected, options.Beta, options.LabelSmoothing),
            };
            return loss.MoveToOuterDisposeScope();                                            // (b)
        }
    }
}
