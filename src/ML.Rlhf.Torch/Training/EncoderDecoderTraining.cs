using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf
{
    /// <summary>
    /// What the training of an encoder–decoder lets you choose. The defaults are those of Vaswani et al. 2017, section 5, but for the
    /// learning rate and the length of the run, which are for small models.
    /// </summary>
    /// <remarks>
    /// The paper's learning rate rises for 4,000 steps to 1/√(width · 4,000), which is 7e-4 for its base model, and then falls with
    /// 1/√step: <c>LearningRate = 7e-4, WarmupSteps = 3999</c>.
    /// </remarks>
    public abstract record EncoderDecoderHyperparameters : OptimizationOptions
    {
        private protected EncoderDecoderHyperparameters()
        {
            LearningRate = 1e-3;
            WarmupSteps = 200;
            LearningRateDecay = LearningRateDecay.InverseSquareRoot;
            Beta2 = 0.98;
            Epsilon = 1e-9;
        }

        /// <summary>Passes over the data.</summary>
        /// <value>At least 1. 10 by default.</value>
        public int Epochs { get; init; } = 10;

        /// <summary>Prompts with their completions per step; those of a batch have similar lengths.</summary>
        /// <value>At least 1. 64 by default; the paper had about 25,000 tokens on each side.</value>
        public int BatchSize { get; init; } = 64;

        /// <summary>Probability of dropping an activation: of a sub-layer's output, or of embedding and position.</summary>
        /// <value>In [0, 1). 0.1 by default, as the paper's base model.</value>
        public double Dropout { get; init; } = 0.1;

        /// <summary>
        /// The part of the probability that the loss spreads evenly over all tokens, so that the model is not taught to be certain. The
        /// validation loss is measured without it.
        /// </summary>
        /// <value>In [0, 1). 0.1 by default (Vaswani et al. 2017, section 5.4).</value>
        public double LabelSmoothing { get; init; } = 0.1;

        internal override void Check(OptionProblems problems)
        {
            base.Check(problems);
            problems.Require(Epochs >= 1, nameof(Epochs), Epochs, "at least 1");
            problems.Require(BatchSize >= 1, nameof(BatchSize), BatchSize, "at least 1");
            problems.Require(Dropout is >= 0 and < 1, nameof(Dropout), Dropout, "in [0, 1)");
            problems.Require(LabelSmoothing is >= 0 and < 1, nameof(LabelSmoothing), LabelSmoothing, "in [0, 1)");
        }
    }
}

namespace ML.Rlhf.Torch.Training
{
    /// <summary>Sequence to sequence: predict the target's tokens from the source and from the target's tokens before them.</summary>
    internal static class EncoderDecoderTraining
    {
        /// <param name="model">Trained in place.</param>
        /// <param name="pairs">At least one.</param>
        /// <param name="validation">Held-out pairs, measured after each epoch, or null.</param>
        /// <param name="options">Validated hyperparameters.</param>
        /// <param name="run">Device, randomness, progress.</param>
        public static void Run(
            EncoderDecoder model, SequencePairs pairs, SequencePairs? validation, EncoderDecoderHyperparameters options, TrainingRun run)
        {
            model.Dropout = options.Dropout;
            using var compute = ComputeScope.Begin(options, model);
            using var optimizer = new AdamW(options, model);
            int stepsPerEpoch = Batches.Count(pairs.Count, options.BatchSize), totalSteps = stepsPerEpoch * options.Epochs;
            LearningRateSchedule.WarnOfLongWarmup(options, totalSteps, run);

            var batches = new ForwardReader<int[]>(
                Batches.ShuffledByLength(pairs.Count, options.BatchSize, options.Epochs, pairs.Length, new RandomStream(run.Seed)));

            foreach (int step in run.Steps(
                new RunStart(options, totalSteps, [model], ("Data", pairs), ("ValidationData", validation)), ("optimizer", optimizer)))
            {
                int[] batch = batches.At(step);
                model.train();
                Dropout.Seed(options.Dropout, run, step);

                // 1. Mean loss over the target tokens of the whole batch, one micro-batch after another.
                optimizer.ZeroGradients();
                double loss = 0;
                long labelCount = batch.Sum(row => (long)pairs.Targets.Length(row));
                foreach (int[] part in batch.Chunk(options.MicroBatchSize ?? batch.Length))
                {
                    using var scope = NewDisposeScope();
                    var mean = LossSum(model, pairs, part, options.LabelSmoothing) / (double)labelCount;
                    mean.backward();
                    loss += mean.ToDouble();
                }

                // 2. Step.
                double learningRate = LearningRateSchedule.At(options, step, totalSteps);
                double norm = optimizer.Step(learningRate);

                // 3. Measure after each epoch, and report.
                run.CountTokens(batch.Sum(row => (long)pairs.Length(row)));
                bool measure = validation is not null && (step + 1) % stepsPerEpoch == 0;
                double? held = run.Validate(measure, check => Measure(model, validation!, check).Mean);
                run.Report(step + 1, totalSteps, loss, held, learningRate, norm);
            }
            model.Dropout = 0;
            model.eval();
        }

        /// <summary>Σ −log p of the targets' tokens, without smoothing and dropout.</summary>
        public static LossTotal Measure(EncoderDecoder model, SequencePairs pairs, Action checkCanceled)
        {
            using var noGrad = no_grad();
            model.eval();
            double sum = 0;
            foreach (int[] rows in Batches.ByLength(pairs.Count, NextTokenLoss.EvaluationRows(model.Architecture), pairs.Length))
            {
                checkCanceled();
                using var scope = NewDisposeScope();
                sum += LossSum(model, pairs, rows, labelSmoothing: 0).ToDouble();
            }
            return new LossTotal(sum, pairs.Targets.TokenCount);
        }

        /// <summary>The loss of some pairs, summed over the targets' tokens: padding has no label.</summary>
        private static Tensor LossSum(EncoderDecoder model, SequencePairs pairs, int[] rows, double labelSmoothing)
        {
            using var scope = NewDisposeScope();

            // 1. The encoder reads the sources.
            var sources = PaddedBatch.Create(pairs.Sources, rows, model.Device);
            var mask = sources.PaddingMask();                                                 // (B, 1, 1, S)
            var encoded = model.Encode(sources.Ids, mask);                                    // (B, S, C)

            // 2. The decoder reads the targets, one place to the right: the end token of the text before, and all but the last token.
            var targets = PaddedBatch.OnCpu(pairs.Targets, rows);
            var (inputs, positions, labels) = DecoderBatch(targets, pairs.EndToken);
            var hidden = model.Decode(inputs.On(model.Device), encoded, mask);                // (B, T, C)

            // 3. At each place it predicts the token that stands there; only places that have one reach the head.
            hidden = hidden.flatten(0, 1).index_select(0, positions.On(model.Device));        // (N, C)
            return LanguageModelLoss.CrossEntropySum(
                model.Logits(hidden), labels.On(model.Device), labelSmoothing).MoveToOuterDisposeScope();
        }

        /// <summary>
        /// What stands to the left of each token of some targets (B, T), which of these B·T places have a token (N), and these tokens (N).
        /// </summary>
        private static (Tensor Inputs, Tensor Positions, Tensor Labels) DecoderBatch(PaddedBatch targets, int endToken)
        {
            int width = (int)targets.Ids.size(1), count = targets.Lengths.Sum(), n = 0;
            Tensor inputs = zeros_like(targets.Ids), positions = TokenTensor.Zeros(count), labels = TokenTensor.Zeros(count);
            Span<long> left = inputs.Numbers(), places = positions.Numbers(), tokens = labels.Numbers();
            for (int i = 0; i < targets.Lengths.Length; i++)
            {
                var target = targets.Row(i);
                for (int t = 0; t < target.Length; t++)
                {
                    left[i * width + t] = t == 0 ? endToken : target[t - 1];
                    places[n] = i * width + t;
                    tokens[n++] = target[t];
                }
            }
            return (inputs, positions, labels);
        }
    }
}
