using System.Globalization;
using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Generation;
using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf
{
    /// <summary>
    /// What the scores of a finished reward model are measured against. The loss knows differences of scores only, so their zero is
    /// arbitrary; but PPO's KL coefficient and the score of an unfinished answer depend on it, and on the scale.
    /// </summary>
    public enum ScoreNormalization
    {
        /// <summary>Nothing: scores are as they were learned.</summary>
        None,

        /// <summary>The answers that the model was trained on: their scores get mean 0 and standard deviation 1.</summary>
        TrainingAnswers,

        /// <summary>Demonstrations: their scores get mean 0, and the scale stays as learned (Ouyang et al. 2022, section 3.5).</summary>
        Demonstrations,

        /// <summary>
        /// Answers that the model which the reward model starts from samples: their scores get mean 0 and standard deviation 1
        /// (Ziegler et al. 2019, section 2).
        /// </summary>
        PolicySamples,
    }

    /// <summary>What reward-model training lets you choose (step 2 of InstructGPT).</summary>
    public abstract record RewardModelHyperparameters : FineTuningOptions
    {
        private protected RewardModelHyperparameters() => LearningRate = 1e-4;

        /// <summary>Passes over the preferences.</summary>
        /// <value>At least 1. 1 by default: reward models overfit from the second pass on (Ouyang et al. 2022, appendix C.2).</value>
        public int Epochs { get; init; } = 1;

        /// <summary>
        /// Prompts per step, whatever the number of their answers; <see cref="OptimizationOptions.MicroBatchSize"/> counts prompts, too,
        /// and all answers to them run through the model together.
        /// </summary>
        /// <value>At least 1. 32 by default; InstructGPT used 64 prompts of 4 to 9 answers.</value>
        public int BatchSize { get; init; } = 32;

        /// <summary>Weight of the mean of (r_better + r_worse)² over the pairs of a prompt, which keeps rewards near 0.</summary>
        /// <value>At least 0. 0 by default; 0.01 is usual (Eisenstein et al. 2023).</value>
        public double CenteringCoefficient { get; init; }

        /// <summary>
        /// What the finished model's scores are measured against. Gain and bias become part of the model, beside its head.
        /// </summary>
        /// <value><see cref="ScoreNormalization.TrainingAnswers"/> by default: it needs no other data.</value>
        public ScoreNormalization Normalization { get; init; } = ScoreNormalization.TrainingAnswers;

        internal override void Check(OptionProblems problems)
        {
            base.Check(problems);
            problems.Require(Epochs >= 1, nameof(Epochs), Epochs, "at least 1");
            problems.Require(BatchSize >= 1, nameof(BatchSize), BatchSize, "at least 1");
            problems.Require(CenteringCoefficient >= 0 && double.IsFinite(CenteringCoefficient), nameof(CenteringCoefficient),
                CenteringCoefficient, "a finite number of at least 0");
            problems.Require(Enum.IsDefined(Normalization), nameof(Normalization), Normalization,
                "None, TrainingAnswers, Demonstrations or PolicySamples");
        }
    }
}

namespace ML.Rlhf.Torch.Training
{
    /// <summary>
    /// Reward modelling: score the answers to a prompt in the order in which people ranked them (Ouyang et al. 2022, step 2).
    /// </summary>
    internal static class RewardModelTraining
    {
        /// <param name="model">Trained in place.</param>
        /// <param name="rankings">At least one prompt; every prompt has at least one pair.</param>
        /// <param name="validation">Held-out rankings, measured after each epoch, or null.</param>
        /// <param name="normalizationTexts">
        /// At least one text that the finished model's scores are measured against: demonstrations or samples; null for the answers of
        /// <paramref name="rankings"/>.
        /// </param>
        /// <param name="options">Validated hyperparameters.</param>
        /// <param name="run">Device, randomness, progress.</param>
        public static void Run(ScalarGpt model, RankingData rankings, RankingData? validation, TokenSequences? normalizationTexts,
            RewardModelHyperparameters options, TrainingRun run)
        {
            using var compute = ComputeScope.Begin(options, model);
            using var optimizer = new AdamW(options, model);
            int stepsPerEpoch = Batches.Count(rankings.Count, options.BatchSize), totalSteps = stepsPerEpoch * options.Epochs;
            LearningRateSchedule.WarnOfLongWarmup(options, totalSteps, run);
            model.eval(); // no dropout: all answers to a prompt go through the same network

            var batches = new ForwardReader<int[]>(
                Batches.Shuffled(rankings.Count, options.BatchSize, options.Epochs, new RandomStream(run.Seed)));

            foreach (int step in run.Steps(
                new RunStart(
                    options, totalSteps, [model], ("Data", rankings), ("ValidationData", validation),
                    ("NormalizationTexts", normalizationTexts)),
                ("optimizer", optimizer)))
            {
                int[] batch = batches.At(step);

                // 1. Mean loss over the prompts of the whole batch, one micro-batch after another.
                optimizer.ZeroGradients();
                double loss = 0;
                foreach (int[] prompts in Batches.Passes(batch, options.MicroBatchSize, rankings.PaddedTokenCount))
                {
                    using var scope = NewDisposeScope();
                    var mean = Losses(model, rankings, prompts, options.CenteringCoefficient).sum() / (double)batch.Length;
                    mean.backward();
                    loss += mean.ToDouble();
                }

                // 2. Step.
                double learningRate = LearningRateSchedule.At(options, step, totalSteps);
                double norm = optimizer.Step(learningRate);

                // 3. Measure after each epoch, and report.
                run.CountTokens(batch.Sum(prompt => (long)rankings.TokenCount(prompt)));
                bool measure = validation is not null && (step + 1) % stepsPerEpoch == 0;
                double? held = run.Validate(measure, check => MeanLoss(model, validation!, check));
                run.Report(step + 1, totalSteps, loss, held, learningRate, norm);
            }

            // 4. Give the scores their zero and their scale.
            if (options.Normalization != ScoreNormalization.None)
                Normalize(model, options.Normalization, normalizationTexts ?? rankings.Answers.Sequences, run);
        }

        /// <summary>The weighted loss of each of some prompts, (b), from one forward pass over all their answers.</summary>
        private static Tensor Losses(ScalarGpt model, RankingData data, int[] prompts, double centeringCoefficient)
        {
            using var scope = NewDisposeScope();
            var (rewards, wins) = Scores(model, data, prompts);
            var losses = PreferenceLoss.Ranked(rewards, wins, Select(data.Margins));
            if (centeringCoefficient > 0)
                losses = losses + centeringCoefficient * PreferenceLoss.RankedCentering(rewards, wins);
            return (Select(data.Weights) * losses).MoveToOuterDisposeScope();

            Tensor Select(float[] perPrompt) => tensor(Array.ConvertAll(prompts, prompt => perPrompt[prompt]), device: model.Trunk.Device);
        }

        /// <summary>
        /// Scores of the answers to some prompts, (b, K), and which of them won, (b, K, K). K is the largest number of answers to one of
        /// the prompts; a place that has no answer wins and loses nothing.
        /// </summary>
        private static (Tensor Rewards, Tensor Wins) Scores(ScalarGpt model, RankingData data, int[] prompts)
        {
            int[] answers = [.. prompts.SelectMany(data.AnswersOf)];
            int most = prompts.Max(data.AnswerCount), answer = 0;
            var places = new long[prompts.Length * most];          // which of the answers stands there; where none does, the first
            var wins = new float[prompts.Length * most * most];
            for (int row = 0; row < prompts.Length; row++)
            {
                int start = data.Starts[prompts[row]];
                for (int k = 0; k < data.AnswerCount(prompts[row]); k++)
                    places[row * most + k] = answer++;
                foreach (var (better, worse) in data.Pairs(prompts[row]))
                    wins[(row * most + better - start) * most + worse - start] = 1;
            }
            using var scope = NewDisposeScope();
            var device = model.Trunk.Device;
            var batch = PaddedBatch.Create(data.Answers.Sequences, answers, device);
            var scores = RewardScoring.AtLastToken(model, batch);                             // (answers)
            return (scores.index_select(0, tensor(places, device: device)).view(prompts.Length, most).MoveToOuterDisposeScope(),
                tensor(wins, [prompts.Length, most, most], device: device).MoveToOuterDisposeScope());
        }

        private static double MeanLoss(ScalarGpt model, RankingData data, Action checkCanceled)
        {
            using var noGrad = no_grad();
            double sum = 0;
            foreach (int[] prompts in Batches.ByLength(data.Count, RewardScoring.BatchSize, data.TokenCount))
            {
                checkCanceled();
                using var scope = NewDisposeScope();
                sum += Losses(model, data, prompts, centeringCoefficient: 0).sum().ToDouble();
            }
            return sum / data.Count;
        }

        /// <summary>
        /// Bias −μ over demonstrations (Ouyang et al. 2022; Huang et al. 2024), otherwise gain 1/σ and bias −μ/σ
        /// (Ziegler et al. 2019).
        /// </summary>
        private static void Normalize(ScalarGpt model, ScoreNormalization normalization, TokenSequences texts, TrainingRun run)
        {
            double[] scores = ScoresToNormalizeOver(model, texts, run);
            double mean = scores.Average(), deviation = Math.Sqrt(scores.Average(s => (s - mean) * (s - mean))), gain = 1;
            if (normalization != ScoreNormalization.Demonstrations && deviation > 1e-6) // or the model cannot tell any apart: only shift
                gain = 1 / deviation;
            model.Normalize(gain, -mean * gain);
            run.Log(string.Create(CultureInfo.InvariantCulture,
                $"Scores of {scores.Length} texts had mean {mean:G3} and deviation {deviation:G3}: " +
                $"gain {gain:G3}, bias {-mean * gain:G3}."));
        }

        /// <summary>Of all texts; where the run was canceled and is to return its model, of a few of them, which must do.</summary>
        private static double[] ScoresToNormalizeOver(ScalarGpt model, TokenSequences texts, TrainingRun run)
        {
            try
            {
                return RewardScoring.Score(model, texts, checkCanceled: run.ThrowIfCanceled);
            }
            catch (OperationCanceledException) when (run.ReturnsWhatItHas)
            {
                var few = new TokenSequences();
                foreach (int row in new RandomStream(run.Seed, key: 1).Permutation(texts.Count).Take(RewardScoring.BatchSize))
                    few.Add(texts[row]);
                return RewardScoring.Score(model, few);
            }
        }
    }

    /// <summary>Samples of a model that a reward model's scores are normalised over.</summary>
    internal static class NormalizationSamples
    {
        /// <summary>As many as put the standard error of the mean at 3 % of a deviation; Ziegler et al. took 256.</summary>
        private const int Count = 1024;

        /// <summary>One answer to each of some prompts in a random order, prompt included.</summary>
        /// <param name="policy">In evaluation mode.</param>
        /// <param name="data">Where the prompts come from.</param>
        /// <param name="sampling">How to draw.</param>
        /// <param name="endToken">The token that ends an answer.</param>
        /// <param name="run">Randomness and cancellation.</param>
        public static TokenSequences Draw(
            CausalLanguageModel policy, RankingData data, SamplingOptions sampling, int endToken, TrainingRun run)
        {
            int[][] prompts = [.. new RandomStream(run.Seed, key: 1).Permutation(data.Count).Take(Count).Select(data.Prompt)];
            RandomStream[] streams = [.. Enumerable.Range(0, prompts.Length).Select(row => new RandomStream(run.Seed, key: 2 + (ulong)row))];
            var samples = new TokenSequences();
            var answers = Sampler.Generate(policy, prompts, streams, endToken, sampling, checkCanceled: run.ThrowIfCanceled);
            foreach (var (prompt, answer) in prompts.Zip(answers))
                samples.Add([.. prompt, .. answer.Tokens]);
            return samples;
        }
    }

    /// <summary>Scores whole sequences with a reward model.</summary>
    internal static class RewardScoring
    {
        public const int BatchSize = 32;

        /// <summary>The score at each row's last real token, (B).</summary>
        public static Tensor AtLastToken(ScalarGpt model, PaddedBatch batch, Precision precision = Precision.Float32)
        {
            using var scope = NewDisposeScope();
            return model.Scores(batch.Ids, precision).gather(-1, batch.LastPositions).squeeze(-1).MoveToOuterDisposeScope();
        }

        /// <summary>Scores every sequence, in batches of similar length.</summary>
        /// <param name="model">The model.</param>
        /// <param name="sequences">At least one token each.</param>
        /// <param name="precision">
        /// <see cref="Precision.Float32"/>, so that a text's score is the same wherever it is asked for, or what a run computes in.
        /// </param>
        /// <param name="checkCanceled">Called before each batch; throws when it shall stop.</param>
        public static double[] Score(
            ScalarGpt model, TokenSequences sequences, Precision precision = Precision.Float32, Action? checkCanceled = null)
        {
            using var noGrad = no_grad();
            var scores = new double[sequences.Count];
            foreach (int[] rows in Batches.ByLength(sequences.Count, BatchSize, sequences.Length))
            {
                checkCanceled?.Invoke();
                using var scope = NewDisposeScope();
                var batch = PaddedBatch.Create(sequences, rows, model.Trunk.Device);
                var values = AtLastToken(model, batch, precision).cpu().data<float>().ToArray();
                for (int i = 0; i < rows.Length; i++)
                    scores[rows[i]] = values[i];
            }
            return scores;
        }
    }
}
