using System.Globalization;
using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf
{
    /// <summary>What Kahneman–Tversky optimisation lets you choose (Ethayarajh et al. 2024, arXiv 2402.01306).</summary>
    public abstract record KtoHyperparameters : FineTuningOptions
    {
        private protected KtoHyperparameters() => LearningRate = 1e-4; // as DPO

        /// <summary>β: how fast the worth of an answer saturates, and how dear it is to move away from the model that training starts
        /// from.</summary>
        /// <value>Above 0. 0.1 by default, as in the paper and in TRL.</value>
        public double Beta { get; init; } = 0.1;

        /// <summary>Weight of desirable answers (λ_D).</summary>
        /// <value>
        /// At least 0. 1 by default. Where one kind of answer is rarer, weigh it up: the paper keeps the ratio of weight times count of
        /// desirable to undesirable answers between 1 and 4/3.
        /// </value>
        public double DesirableWeight { get; init; } = 1;

        /// <summary>Weight of undesirable answers (λ_U).</summary>
        /// <value>At least 0. 1 by default; see <see cref="DesirableWeight"/>.</value>
        public double UndesirableWeight { get; init; } = 1;

        /// <summary>Passes over the answers.</summary>
        /// <value>At least 1. 1 by default.</value>
        public int Epochs { get; init; } = 1;

        /// <summary>Answers per step.</summary>
        /// <value>At least 1. 32 by default, as in the paper. The estimate of the KL term needs at least some.</value>
        public int BatchSize { get; init; } = 32;

        internal override void Check(OptionProblems problems)
        {
            base.Check(problems);
            problems.Require(Beta > 0 && double.IsFinite(Beta), nameof(Beta), Beta, "a finite number above 0");
            problems.Require(DesirableWeight >= 0 && double.IsFinite(DesirableWeight), nameof(DesirableWeight), DesirableWeight,
                "a finite number of at least 0");
            problems.Require(UndesirableWeight >= 0 && double.IsFinite(UndesirableWeight), nameof(UndesirableWeight), UndesirableWeight,
                "a finite number of at least 0");
            problems.Require(Epochs >= 1, nameof(Epochs), Epochs, "at least 1");
            problems.Require(BatchSize >= 1, nameof(BatchSize), BatchSize, "at least 1");
        }
    }

    /// <summary>
    /// Where a KTO run stands after a step. All numbers are means over the step's answers, before the step. In brackets, the name that the
    /// field's codebases log the number under.
    /// </summary>
    public sealed record KtoProgress : TrainingProgress
    {
        /// <summary>
        /// The reference point z: the estimate of the policy's divergence from its beginning, in nats, at least 0 (<c>kl</c>).
        /// </summary>
        public required double Kl { get; init; }

        /// <summary>β·(log π − log π_ref) of the desirable answers (<c>rewards/chosen</c>); null in a step without any.</summary>
        public required double? DesirableReward { get; init; }

        /// <summary>The same of the undesirable answers (<c>rewards/rejected</c>).</summary>
        public required double? UndesirableReward { get; init; }

        /// <summary>By how much the first is the higher one (<c>rewards/margins</c>); null where one of them is.</summary>
        public double? RewardMargin => DesirableReward - UndesirableReward;

        /// <summary>Mean log π of the desirable answers, in nats (<c>logps/chosen</c>); null in a step without any.</summary>
        public required double? DesirableLogProb { get; init; }

        /// <summary>The same of the undesirable answers (<c>logps/rejected</c>).</summary>
        public required double? UndesirableLogProb { get; init; }

        private protected override void AddMetrics(Dictionary<string, double> metrics)
        {
            base.AddMetrics(metrics);
            metrics["kl"] = Kl;
            Add("rewards/chosen", DesirableReward);
            Add("rewards/rejected", UndesirableReward);
            Add("rewards/margins", RewardMargin);
            Add("logps/chosen", DesirableLogProb);
            Add("logps/rejected", UndesirableLogProb);

            void Add(string name, double? value)
            {
                if (value is { } number)
                    metrics[name] = number;
            }
        }

        internal override string Details => string.Create(CultureInfo.InvariantCulture, $" kl {Kl:F3}")
            + (RewardMargin is { } margin ? string.Create(CultureInfo.InvariantCulture, $" margin {margin:F3}") : "");
    }
}

namespace ML.Rlhf.Torch.Training
{
    /// <summary>Answers that people judged one by one.</summary>
    /// <param name="Answers">Prompts with an answer each.</param>
    /// <param name="Desirable">Whether the answer is a good one.</param>
    internal sealed record FeedbackData(CompletionData Answers, bool[] Desirable) : IFingerprinted
    {
        public int Count => Answers.Count;

        public void AddTo(Fingerprint fingerprint)
        {
            Answers.AddTo(fingerprint);
            fingerprint.Add<bool>(Desirable);
        }
    }

    /// <summary>Judged answers, what the reference says of them, and the same for pairs that do not belong together.</summary>
    /// <param name="Feedback">The answers.</param>
    /// <param name="LogProbs">log π_ref of each answer.</param>
    /// <param name="Mismatched">Row i has the prompt of row i and the answer of another row.</param>
    /// <param name="MismatchedLogProbs">log π_ref of those.</param>
    internal sealed record ReferencedFeedback(
        FeedbackData Feedback, float[] LogProbs, CompletionData Mismatched, float[] MismatchedLogProbs)
    {
        /// <summary>
        /// The rows are put on a ring in random order, and each gets its neighbour's answer. Random, because neighbours in the data often
        /// answer the same prompt; once, so that the reference is asked only once.
        /// </summary>
        public static ReferencedFeedback Create(CausalLanguageModel reference, FeedbackData feedback, TrainingRun run)
        {
            var answers = feedback.Answers;
            int[] ring = new RandomStream(run.Seed, key: 1).Permutation(answers.Count);
            var others = new int[ring.Length];
            for (int i = 0; i < ring.Length; i++)
                others[ring[i]] = ring[(i + 1) % ring.Length];

            var sequences = new TokenSequences();
            int context = reference.Architecture.ContextLength;
            for (int row = 0; row < others.Length; row++)
            {
                int[] tokens = [.. answers.Sequences[row][..answers.PromptLengths[row]],
                    .. answers.Sequences[others[row]][answers.PromptLengths[others[row]]..]];
                sequences.Add(tokens.AsSpan(0, Math.Min(tokens.Length, context)));
            }
            var mismatched = new CompletionData(sequences, answers.PromptLengths);
            return new ReferencedFeedback(
                feedback, AnswerBatch.LogProbs(reference, answers, run), mismatched, AnswerBatch.LogProbs(reference, mismatched, run));
        }
    }

    /// <summary>
    /// Kahneman–Tversky optimisation: make desirable answers more likely and undesirable ones less, each measured against how far the
    /// policy has moved on the whole (Ethayarajh et al. 2024). No pairs, no reward model, no sampling.
    /// </summary>
    internal static class KtoTraining
    {
        /// <param name="model">Trained in place.</param>
        /// <param name="feedback">At least one answer.</param>
        /// <param name="validation">Held-out answers, measured after each epoch, or null.</param>
        /// <param name="options">Validated hyperparameters.</param>
        /// <param name="run">Device, randomness, progress.</param>
        public static void Run(
            CausalLanguageModel model, FeedbackData feedback, FeedbackData? validation, KtoHyperparameters options, TrainingRun run)
        {
            using var compute = ComputeScope.Begin(options, model);
            model.eval(); // no dropout: policy and reference go through the same network

            // 1. What the reference says of each answer: it is the model as it is now, and does not change. So one pass before training
            //    is enough, and no second model stays in memory.
            var data = ReferencedFeedback.Create(model, feedback, run);
            var held = validation is null ? null : ReferencedFeedback.Create(model, validation, run);

            using var optimizer = new AdamW(options, model);
            int stepsPerEpoch = Batches.Count(feedback.Count, options.BatchSize), totalSteps = stepsPerEpoch * options.Epochs;
            LearningRateSchedule.WarnOfLongWarmup(options, totalSteps, run);

            var batches = new ForwardReader<int[]>(
                Batches.Shuffled(feedback.Count, options.BatchSize, options.Epochs, new RandomStream(run.Seed)));

            foreach (int step in run.Steps(
                new RunStart(options, totalSteps, [model], ("Data", feedback), ("ValidationData", validation)), ("optimizer", optimizer)))
            {
                int[] batch = batches.At(step);

                // 2. The reference point of the whole batch, and then its mean loss, one micro-batch after another.
                optimizer.ZeroGradients();
                var statistics = AccumulateGradients(model, data, batch, options);

                // 3. Step.
                double learningRate = LearningRateSchedule.At(options, step, totalSteps);
                double norm = optimizer.Step(learningRate);

                // 4. Measure after each epoch, and report.
                run.CountTokens(batch.Sum(row => (long)feedback.Answers.Sequences.Length(row)));
                bool measure = held is not null && (step + 1) % stepsPerEpoch == 0;
                double? heldLoss = run.Validate(measure, check => Loss(model, held!, options, check));
                run.Report(statistics.Progress(run, step + 1, totalSteps, heldLoss, learningRate, norm));
            }
        }

        /// <summary>Adds the gradient of the mean loss over some answers.</summary>
        internal static Statistics AccumulateGradients(
            CausalLanguageModel model, ReferencedFeedback data, int[] batch, KtoHyperparameters options)
        {
            using var scope = NewDisposeScope();
            int[][] parts = [.. batch.Chunk(options.MicroBatchSize ?? batch.Length)];
            var referencePoint = ReferencePoint(model, data, parts);
            var statistics = new Statistics { Kl = referencePoint.ToDouble() };
            foreach (int[] part in parts)
            {
                using var partScope = NewDisposeScope();
                var mean = PerAnswer(model, data, part, referencePoint, options, statistics).sum() / (double)batch.Length;
                mean.backward();
                statistics.Loss += mean.ToDouble();
            }
            return statistics;
        }

        private static double Loss(
            CausalLanguageModel model, ReferencedFeedback data, KtoHyperparameters options, Action checkCanceled)
        {
            using var noGrad = no_grad();
            using var scope = NewDisposeScope();
            int[][] parts = [.. Batches.ByLength(
                data.Feedback.Count, NextTokenLoss.EvaluationRows(model.Architecture), data.Feedback.Answers.Sequences.Length)];
            var referencePoint = ReferencePoint(model, data, parts, checkCanceled);
            double sum = 0;
            foreach (int[] part in parts)
            {
                checkCanceled();
                using var partScope = NewDisposeScope();
                sum += PerAnswer(model, data, part, referencePoint, options, new Statistics()).sum().ToDouble();
            }
            return sum / data.Feedback.Count;
        }

        /// <summary>z of all rows of some parts, a scalar.</summary>
        private static Tensor ReferencePoint(
            CausalLanguageModel model, ReferencedFeedback data, int[][] parts, Action? checkCanceled = null)
        {
            using var noGrad = no_grad();
            using var scope = NewDisposeScope();
            List<Tensor> logRatios = [];
            foreach (int[] part in parts)
            {
                checkCanceled?.Invoke();
                logRatios.Add(LogRatios(model, data.Mismatched, data.MismatchedLogProbs, part).LogRatios);
            }
            return KtoLoss.ReferencePoint(cat(logRatios)).MoveToOuterDisposeScope();
        }

        /// <summary>The weighted loss of each answer, (b).</summary>
        private static Tensor PerAnswer(
            CausalLanguageModel model, ReferencedFeedback data, int[] rows, Tensor referencePoint, KtoHyperparameters options,
            Statistics statistics)
        {
            using var scope = NewDisposeScope();
            bool[] labels = [.. rows.Select(row => data.Feedback.Desirable[row])];
            var weights = tensor(
                labels.Select(good => (float)(good ? options.DesirableWeight : options.UndesirableWeight)).ToArray(), device: model.Device);
            var (logProbs, logRatios) = LogRatios(model, data.Feedback.Answers, data.LogProbs, rows);
            statistics.Add(labels, options.Beta * logRatios, logProbs);
            var loss = KtoLoss.PerAnswer(logRatios, tensor(labels, device: model.Device), referencePoint, options.Beta);
            return (weights * loss).MoveToOuterDisposeScope();
        }

        /// <summary>log π and log π − log π_ref of some rows, (b).</summary>
        private static (Tensor LogProbs, Tensor LogRatios) LogRatios(
            CausalLanguageModel model, CompletionData data, float[] reference, int[] rows)
        {
            using var scope = NewDisposeScope();
            var logProbs = AnswerBatch.Create([.. rows.Select(row => (data, row))], model.Device).LogProbs(model);
            var logRatios = logProbs - tensor(rows.Select(row => reference[row]).ToArray(), device: model.Device);
            return (logProbs.MoveToOuterDisposeScope(), logRatios.MoveToOuterDisposeScope());
        }

        /// <summary>What one step measures of its answers, micro-batch by micro-batch.</summary>
        internal sealed class Statistics
        {
            private readonly List<(bool Desirable, float Reward, float LogProb)> _answers = [];

            public double Kl, Loss;

            /// <summary>Adds some answers; tensors are (b).</summary>
            public void Add(bool[] desirable, Tensor rewards, Tensor logProbs)
            {
                using var scope = NewDisposeScope();
                float[] reward = rewards.detach().cpu().data<float>().ToArray(), logProb = logProbs.detach().cpu().data<float>().ToArray();
                for (int i = 0; i < desirable.Length; i++)
                    _answers.Add((desirable[i], reward[i], logProb[i]));
            }

            public KtoProgress Progress(
                TrainingRun run, int step, int totalSteps, double? validationLoss, double learningRate, double gradientNorm)
            {
                double? Mean(bool desirable, Func<(bool Desirable, float Reward, float LogProb), float> of) =>
                    _answers.Where(answer => answer.Desirable == desirable).Select(answer => (double?)of(answer)).Average();
                return new KtoProgress
                {
                    Stage = run.Stage,
                    Step = step,
                    TotalSteps = totalSteps,
                    Loss = Loss,
                    ValidationLoss = validationLoss,
                    LearningRate = learningRate,
                    GradientNorm = gradientNorm,
                    TokensPerSecond = run.TokensPerSecond,
                    Elapsed = run.Elapsed,
                    Kl = Kl,
                    DesirableReward = Mean(true, answer => answer.Reward),
                    UndesirableReward = Mean(false, answer => answer.Reward),
                    DesirableLogProb = Mean(true, answer => answer.LogProb),
                    UndesirableLogProb = Mean(false, answer => answer.LogProb),
                };
            }
        }
    }
}
