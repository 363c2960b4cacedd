using System.Globalization;
using ML.Rlhf.Torch.Training;
using static TorchSharp.torch;

namespace ML.Rlhf
{
    /// <summary>
    /// Where a run that learns from pairs of answers (DPO, ORPO) stands after a step. All numbers are means over the step's pairs, before
    /// the step. In brackets, the name that the field's codebases log the number under.
    /// </summary>
    /// <remarks>
    /// An answer's implicit reward is β·(log π − log π_ref) for DPO, and β·mean log π per token for ORPO, which has no reference.
    /// </remarks>
    public record PreferenceProgress : TrainingProgress
    {
        /// <summary>Implicit reward of the chosen answers (<c>rewards/chosen</c>). For DPO, 0 at the first step but for rounding.</summary>
        public required double ChosenReward { get; init; }

        /// <summary>Implicit reward of the rejected answers (<c>rewards/rejected</c>).</summary>
        public required double RejectedReward { get; init; }

        /// <summary>
        /// Part of the pairs whose chosen answer has the higher implicit reward (<c>rewards/accuracies</c>). Before DPO's first step the
        /// rewards are equal but for rounding, and so this number says nothing.
        /// </summary>
        public required double RewardAccuracy { get; init; }

        /// <summary>By how much the implicit reward of the chosen answers is the higher one (<c>rewards/margins</c>).</summary>
        public double RewardMargin => ChosenReward - RejectedReward;

        /// <summary>
        /// Mean log π of the chosen answers, in nats (<c>logps/chosen</c>): of whole answers for DPO, per token for ORPO. It often falls
        /// during DPO, while that of the rejected answers falls further.
        /// </summary>
        public required double ChosenLogProb { get; init; }

        /// <summary>Mean log π of the rejected answers, in nats, likewise (<c>logps/rejected</c>).</summary>
        public required double RejectedLogProb { get; init; }

        private protected override void AddMetrics(Dictionary<string, double> metrics)
        {
            base.AddMetrics(metrics);
            metrics["rewards/chosen"] = ChosenReward;
            metrics["rewards/rejected"] = RejectedReward;
            metrics["rewards/accuracies"] = RewardAccuracy;
            metrics["rewards/margins"] = RewardMargin;
            metrics["logps/chosen"] = ChosenLogProb;
            metrics["logps/rejected"] = RejectedLogProb;
        }

        internal override string Details => string.Create(CultureInfo.InvariantCulture,
            $" accuracy {RewardAccuracy:F3} margin {RewardMargin:F3}");
    }
}

namespace ML.Rlhf.Torch.Training
{
    /// <summary>What one step measures of its pairs, micro-batch by micro-batch.</summary>
    internal sealed class PairStatistics
    {
        private readonly List<float> _chosenRewards = [], _rejectedRewards = [], _chosenLogProbs = [], _rejectedLogProbs = [];

        /// <summary>The step's loss.</summary>
        public double Loss { get; set; }

        /// <summary>Adds some pairs; all tensors are (b).</summary>
        public void Add(Tensor chosenRewards, Tensor rejectedRewards, Tensor chosenLogProbs, Tensor rejectedLogProbs)
        {
            using var scope = NewDisposeScope();
            _chosenRewards.AddRange(Numbers(chosenRewards));
            _rejectedRewards.AddRange(Numbers(rejectedRewards));
            _chosenLogProbs.AddRange(Numbers(chosenLogProbs));
            _rejectedLogProbs.AddRange(Numbers(rejectedLogProbs));
        }

        public PreferenceProgress Progress(
            TrainingRun run, int step, int totalSteps, double? validationLoss, double learningRate, double gradientNorm) => new()
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
                ChosenReward = _chosenRewards.Average(),
                RejectedReward = _rejectedRewards.Average(),
                RewardAccuracy = _chosenRewards.Zip(_rejectedRewards, (chosen, rejected) => chosen > rejected ? 1.0 : 0).Average(),
                ChosenLogProb = _chosenLogProbs.Average(),
                RejectedLogProb = _rejectedLogProbs.Average(),
            };

        private static float[] Numbers(Tensor values) => values.detach().cpu().data<float>().ToArray();
    }
}
