using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf
{
    /// <summary>What pretraining lets you choose. The defaults are nanoGPT's for small models on a CPU.</summary>
    public abstract record GptHyperparameters : OptimizationOptions
    {
        private protected GptHyperparameters()
        {
            LearningRate = 1e-3;
            WarmupSteps = 100;
            Beta2 = 0.99;
            WeightDecay = 0.1;
        }

        /// <summary>Optimiser steps.</summary>
        /// <value>At least 1. 2,000 by default.</value>
        public int Steps { get; init; } = 2000;

        /// <summary>Windows of <see cref="LanguageModelArchitecture.ContextLength"/> tokens per step, drawn at random from the corpus.</summary>
        /// <value>At least 1. 12 by default.</value>
        public int BatchSize { get; init; } = 12;

        /// <summary>Probability of dropping an activation.</summary>
        /// <value>In [0, 1). 0 by default: a small model that sees each text a few times underfits before it overfits.</value>
        public double Dropout { get; init; }

        /// <summary>Steps between two measurements on the validation data. The last step always measures.</summary>
        /// <value>At least 1. 250 by default.</value>
        public int EvaluateEvery { get; init; } = 250;

        internal override void Check(OptionProblems problems)
        {
            base.Check(problems);
            problems.Require(Steps >= 1, nameof(Steps), Steps, "at least 1");
            problems.Require(BatchSize >= 1, nameof(BatchSize), BatchSize, "at least 1");
            problems.Require(Dropout is >= 0 and < 1, nameof(Dropout), Dropout, "in [0, 1)");
            problems.Require(EvaluateEvery >= 1, nameof(EvaluateEvery), EvaluateEvery, "at least 1");
        }
    }
}

namespace ML.Rlhf.Torch.Training
{
    /// <summary>Pretraining: predict each next token of a corpus (Radford et al. 2018).</summary>
    internal static class LanguageModelTraining
    {
        /// <param name="model">Trained in place.</param>
        /// <param name="corpus">All documents, each with its end token, one after another; at least two tokens.</param>
        /// <param name="validation">The same of held-out documents, or null.</param>
        /// <param name="options">Validated hyperparameters.</param>
        /// <param name="run">Device, randomness, progress.</param>
        public static void Run(
            CausalLanguageModel model, TokenSequences corpus, TokenSequences? validation, GptHyperparameters options, TrainingRun run)
        {
            var random = new RandomStream(run.Seed);
            LearningRateSchedule.WarnOfLongWarmup(options, options.Steps, run);
            using var compute = ComputeScope.Begin(options, model);
            using var optimizer = new AdamW(options, model);
            int window = (int)Math.Min(model.Architecture.ContextLength, corpus.TokenCount - 1);

            foreach (int step in run.Steps(
                new RunStart(options, options.Steps, [model], ("Data", corpus), ("ValidationData", validation)),
                ("optimizer", optimizer), ("windows", new Resumable(s => s.Value("stream", ref random)))))
            {
                Dropout.Begin(model, options.Dropout, run, step);

                // 1. Draw windows of the corpus; the labels are the same windows, one token on.
                int[] starts = new int[options.BatchSize];
                for (int i = 0; i < starts.Length; i++)
                    starts[i] = random.NextInt32((int)(corpus.TokenCount - window));

                // 2. Mean loss per token and its gradient, one micro-batch after another.
                optimizer.ZeroGradients();
                double loss = 0;
                foreach (int[] part in starts.Chunk(options.MicroBatchSize ?? starts.Length))
                {
                    using var scope = NewDisposeScope();
                    var (ids, labels) = Windows(corpus, part, window, run.Device);
                    var mean = NextTokenLoss.Sum(model, ids, positions: null, labels) / ((double)starts.Length * window);
                    mean.backward();
                    loss += mean.ToDouble();
                }

                // 3. Step.
                double learningRate = LearningRateSchedule.At(options, step, options.Steps);
                double norm = optimizer.Step(learningRate);

                // 4. Measure and report.
                run.CountTokens((long)starts.Length * window);
                bool measure = validation is not null && ((step + 1) % options.EvaluateEvery == 0 || step + 1 == options.Steps);
                double? held = run.Validate(measure, check => NextTokenLoss.Corpus(model, validation!, check).Mean);
                run.Report(step + 1, options.Steps, loss, held, learningRate, norm);
            }
            Dropout.End(model);
        }

        /// <summary>Windows of consecutive tokens (B, T), and the token after each one (B·T).</summary>
        public static (Tensor Ids, Tensor Labels) Windows(TokenSequences corpus, int[] starts, int window, Device device)
        {
            var ids = new long[starts.Length * window];
            var labels = new long[starts.Length * window];
            for (int row = 0; row < starts.Length; row++)
            {
                corpus.CopyTo(starts[row], ids.AsSpan(row * window, window));
                corpus.CopyTo(starts[row] + 1, labels.AsSpan(row * window, window));
            }
            return (tensor(ids, [starts.Length, window], device: device), tensor(labels, device: device));
        }
    }
}
