using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf
{
    /// <summary>
    /// What pretraining an encoder lets you choose: what pretraining a GPT does, and how much is hidden. A batch is made of documents, each
    /// alone, and cut where it is longer than the model's context.
    /// </summary>
    public abstract record MaskedLanguageModelHyperparameters : GptHyperparameters
    {
        private protected MaskedLanguageModelHyperparameters()
        {
        }

        /// <summary>The part of a text's tokens that is hidden and has to be guessed.</summary>
        /// <value>Above 0 and at most 0.5; at least one token of each text is hidden. 0.15 by default (Devlin et al. 2019).</value>
        public double MaskingRate { get; init; } = 0.15;

        internal override void Check(OptionProblems problems)
        {
            base.Check(problems);
            problems.Require(MaskingRate is > 0 and <= 0.5, nameof(MaskingRate), MaskingRate, "above 0 and at most 0.5");
        }
    }
}

namespace ML.Rlhf.Torch.Training
{
    /// <summary>
    /// Pretraining an encoder: guess the tokens of a text that were hidden, from what stands on both sides (Devlin et al. 2019, section
    /// 3.1). Hidden tokens are drawn anew each time that a text is used ("dynamic masking": Liu et al. 2019, section 4.1), and there is
    /// no next sentence prediction (section 4.2).
    /// </summary>
    internal static class MaskedLanguageModelTraining
    {
        /// <param name="model">Trained in place.</param>
        /// <param name="corpus">Sequences that fit the model's context, each with a token that may be hidden; at least one.</param>
        /// <param name="validation">The same of held-out documents, or null.</param>
        /// <param name="vocabulary">What may be hidden, and what it is hidden by.</param>
        /// <param name="options">Validated hyperparameters.</param>
        /// <param name="run">Device, randomness, progress.</param>
        public static void Run(
            Encoder model, TokenSequences corpus, TokenSequences? validation, MaskingVocabulary vocabulary,
            MaskedLanguageModelHyperparameters options, TrainingRun run)
        {
            var random = new RandomStream(run.Seed);
            model.Dropout = options.Dropout;
            LearningRateSchedule.WarnOfLongWarmup(options, options.Steps, run);
            using var compute = ComputeScope.Begin(options, model);
            using var optimizer = new AdamW(options, model);

            foreach (int step in run.Steps(
                new RunStart(options, options.Steps, [model], ("Data", corpus), ("ValidationData", validation)),
                ("optimizer", optimizer), ("sequences", new Resumable(s => s.Value("stream", ref random)))))
            {
                model.train();
                Dropout.Seed(options.Dropout, run, step);

                // 1. Draw sequences, and hide some of their tokens.
                var rows = new MaskedSequence[options.BatchSize];
                for (int i = 0; i < rows.Length; i++)
                    rows[i] = TokenMasking.Mask(corpus[random.NextInt32(corpus.Count)], vocabulary, options.MaskingRate, ref random);

                // 2. Mean loss over the hidden tokens of the whole batch and its gradient, one micro-batch after another.
                optimizer.ZeroGradients();
                double loss = 0;
                long hidden = rows.Sum(row => (long)row.Labels.Length);
                foreach (var part in rows.Chunk(options.MicroBatchSize ?? rows.Length))
                {
                    using var scope = NewDisposeScope();
                    var mean = MaskedTokenLoss.Sum(model, part, run.Device) / (double)hidden;
                    mean.backward();
                    loss += mean.ToDouble();
                }

                // 3. Step.
                double learningRate = LearningRateSchedule.At(options, step, options.Steps);
                double norm = optimizer.Step(learningRate);

                // 4. Measure and report.
                run.CountTokens(rows.Sum(row => (long)row.Inputs.Length));
                bool measure = validation is not null && ((step + 1) % options.EvaluateEvery == 0 || step + 1 == options.Steps);
                double? validationLoss = run.Validate(
                    measure, check => MaskedTokenLoss.Measure(model, validation!, vocabulary, options.MaskingRate, check).Loss.Mean);
                run.Report(step + 1, options.Steps, loss, validationLoss, learningRate, norm);
            }
            model.Dropout = 0;
            model.eval();
        }
    }
}
