using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf
{
    /// <summary>What supervised fine-tuning lets you choose (step 1 of InstructGPT).</summary>
    public abstract record SupervisedFineTuningHyperparameters : FineTuningOptions
    {
        private protected SupervisedFineTuningHyperparameters() => LearningRate = 3e-4;

        /// <summary>Passes over the demonstrations.</summary>
        /// <value>At least 1. 2 by default: InstructGPT's starting point for PPO.</value>
        public int Epochs { get; init; } = 2;

        /// <summary>Demonstrations per step.</summary>
        /// <value>At least 1. 32 by default.</value>
        public int BatchSize { get; init; } = 32;

        /// <summary>Probability of dropping an activation.</summary>
        /// <value>In [0, 1). 0 by default; InstructGPT used 0.2 for 16 epochs.</value>
        public double Dropout { get; init; }

        /// <summary>Whether the prompts' tokens are learned too.</summary>
        /// <value>False by default: the model should answer prompts, not write them.</value>
        public bool LearnPrompts { get; init; }

        /// <summary>
        /// Whether short rows share a sequence of the context's length, instead of being padded to the longest of their batch. Attention
        /// stays inside each row and positions begin anew, so the loss is the same; only speed and memory change.
        /// </summary>
        /// <value>False by default: it saves time where lengths differ much, and costs some where they do not. An LSTM, which has to
        /// forget between rows, reads packed ones token by token: slower in any case.</value>
        public bool Packing { get; init; }

        private protected override bool HasDropout => true;

        internal override void Check(OptionProblems problems)
        {
            base.Check(problems);
            problems.Require(Epochs >= 1, nameof(Epochs), Epochs, "at least 1");
            problems.Require(BatchSize >= 1, nameof(BatchSize), BatchSize, "at least 1");
            problems.Require(Dropout is >= 0 and < 1, nameof(Dropout), Dropout, "in [0, 1)");
        }
    }
}

namespace ML.Rlhf.Torch.Training
{
    /// <summary>Supervised fine-tuning: predict the completions that people wrote (Ouyang et al. 2022, step 1).</summary>
    internal static class SupervisedFineTuning
    {
        /// <param name="model">Trained in place.</param>
        /// <param name="demonstrations">At least one row; every row has at least one label.</param>
        /// <param name="validation">Held-out demonstrations, measured after each epoch, or null.</param>
        /// <param name="options">Validated hyperparameters.</param>
        /// <param name="run">Device, randomness, progress.</param>
        public static void Run(
            CausalLanguageModel model, CompletionData demonstrations, CompletionData? validation,
            SupervisedFineTuningHyperparameters options,
            TrainingRun run)
        {
            using var compute = ComputeScope.Begin(options, model);
            using var optimizer = new AdamW(options, model);
            int stepsPerEpoch = Batches.Count(demonstrations.Count, options.BatchSize), totalSteps = stepsPerEpoch * options.Epochs;
            LearningRateSchedule.WarnOfLongWarmup(options, totalSteps, run);

            var batches = new ForwardReader<int[]>(
                Batches.Shuffled(demonstrations.Count, options.BatchSize, options.Epochs, new RandomStream(run.Seed)));

            foreach (int step in run.Steps(
                new RunStart(options, totalSteps, [model], ("Data", demonstrations), ("ValidationData", validation)),
                ("optimizer", optimizer)))
            {
                int[] batch = batches.At(step);
                Dropout.Begin(model, options.Dropout, run, step);

                // 1. Mean loss over the labels of the whole batch, one micro-batch after another.
                optimizer.ZeroGradients();
                double loss = 0;
                int labelCount = demonstrations.LabelCount(batch, options.LearnPrompts);
                foreach (int[] part in options.Packing
                    ? batch.Chunk(options.MicroBatchSize ?? batch.Length)
                    : Batches.Passes(batch, options.MicroBatchSize, demonstrations.Sequences.Length))
                {
                    using var scope = NewDisposeScope();
                    var mean = Sum(model, demonstrations, part, options, run) / (double)labelCount;
                    mean.backward();
                    loss += mean.ToDouble();
                }

                // 2. Step.
                double learningRate = LearningRateSchedule.At(options, step, totalSteps);
                double norm = optimizer.Step(learningRate);

                // 3. Measure after each epoch, and report.
                run.CountTokens(batch.Sum(row => (long)demonstrations.Sequences.Length(row)));
                bool measure = validation is not null && (step + 1) % stepsPerEpoch == 0;
                double? validationLoss = run.Validate(measure, check => NextTokenLoss.Completions(model, validation!, check).Mean);
                run.Report(step + 1, totalSteps, loss, validationLoss, learningRate, norm);
            }
            Dropout.End(model);
        }

        /// <summary>Σ −log p of the labels of some rows.</summary>
        private static Tensor Sum(
            CausalLanguageModel model, CompletionData data, int[] rows, SupervisedFineTuningHyperparameters options, TrainingRun run)
        {
            using var scope = NewDisposeScope();
            if (options.Packing)
            {
                var (packed, layout, places, tokens) = PackedBatch.Create(
                    data, rows, model.Architecture.ContextLength, run.Device, options.LearnPrompts);
                return NextTokenLoss.Sum(model, packed, places, tokens, layout).MoveToOuterDisposeScope();
            }
            var (ids, positions, labels) = NextTokenLoss.CompletionBatch(data, rows, run.Device, options.LearnPrompts);
            return NextTokenLoss.Sum(model, ids, positions, labels).MoveToOuterDisposeScope();
        }
    }
}
