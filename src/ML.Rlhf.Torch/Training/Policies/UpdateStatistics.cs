using System.Diagnostics;
using ML.Rlhf.Torch.Functional;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Training;

/// <summary>
/// What is measured while an update is made. Within an optimiser step the parts of its micro-batches add up; over the steps of the update
/// they are averaged.
/// </summary>
internal class UpdateStatistics
{
    private readonly Stopwatch _clock = Stopwatch.StartNew();
    private TimeSpan _last;
    private double _loss, _policyLoss, _approximateKl, _clipFraction, _ratio, _ratioVariance;
    private double _partKl, _partRatio, _partRatioSquare;

    /// <summary>Σ_t (log π − log π_ref) of each episode at the rollout.</summary>
    public double[] EpisodeKls { get; private set; } = [];

    /// <summary>Their mean.</summary>
    public double Kl => EpisodeKls.Average();

    public double Entropy { get; private set; }

    public double LogProbDrift { get; private set; }

    public double RatioMinimum { get; private set; } = double.PositiveInfinity;

    public double RatioMaximum { get; private set; } = double.NegativeInfinity;

    /// <summary>Steps measured. Without one, sums are 0 and ratios 1: nothing has moved.</summary>
    public int Steps { get; private set; }

    /// <summary>Steps taken: one less than measured where the last one was left out.</summary>
    public int OptimizerSteps { get; set; }

    public double Loss => PerStep(_loss);

    public double PolicyLoss => PerStep(_policyLoss);

    public double ApproximateKl => PerStep(_approximateKl);

    public double PolicyClipFraction => PerStep(_clipFraction);

    public double RatioMean => Steps == 0 ? 1 : PerStep(_ratio);

    public double RatioVariance => PerStep(_ratioVariance);

    /// <summary>Approximate KL of the last step measured.</summary>
    public double StepKl { get; private set; }

    /// <summary>What the phases of the update took.</summary>
    public TimeSpan SamplingTime { get; set; }

    public TimeSpan ScoringTime { get; set; }

    public TimeSpan EvaluationTime { get; set; }

    public TimeSpan LearningTime { get; set; }

    /// <summary>Time since this was called last, or since the update began. Each phase ends with a number that the device has to
    /// give, so that none is charged for another's work.</summary>
    public TimeSpan SinceLast()
    {
        var now = _clock.Elapsed;
        var time = now - _last;
        _last = now;
        return time;
    }

    /// <summary>The mean over the steps of a sum over them.</summary>
    public double PerStep(double sum) => sum / Math.Max(1, Steps);

    /// <summary>Measures the rollout, before anything is learned from it.</summary>
    /// <param name="episodes">The episodes.</param>
    /// <param name="logProbs">log π from a fresh forward pass (B, R), 0 on padding.</param>
    /// <param name="referenceLogProbs">log π_ref (B, R), 0 on padding.</param>
    /// <param name="entropies">Entropy at each response token (B, R).</param>
    /// <param name="mask">(B, R).</param>
    public void MeasureRollout(
        IReadOnlyList<Episode> episodes, Tensor logProbs, Tensor referenceLogProbs, Tensor entropies, Tensor mask)
    {
        using var scope = NewDisposeScope();
        EpisodeKls = Array.ConvertAll((logProbs - referenceLogProbs).sum(-1).cpu().data<float>().ToArray(), kl => (double)kl);
        Entropy = MaskedStatistics.Mean(entropies, mask).ToDouble();
        var fresh = logProbs.cpu().data<float>().ToArray();
        int width = (int)logProbs.shape[1];
        LogProbDrift = episodes
            .SelectMany((e, i) => e.SampledLogProbs.Select((sampled, t) => Math.Abs((double)sampled - fresh[i * width + t]))).Max();
    }

    /// <summary>Measures the policy's part of a micro-batch.</summary>
    /// <param name="loss">Everything that was descended, as this part's share of the step's mean.</param>
    /// <param name="policyLoss">The policy's share of it.</param>
    /// <param name="ratio">π / π_old (b, R).</param>
    /// <param name="logRatio">log π − log π_old (b, R).</param>
    /// <param name="isClipped">bool (b, R).</param>
    /// <param name="mask">(b, R).</param>
    /// <param name="tokens">Real tokens of the whole minibatch.</param>
    public void AddPart(Tensor loss, Tensor policyLoss, Tensor ratio, Tensor logRatio, Tensor isClipped, Tensor mask, double tokens)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        double Mean(Tensor perToken) => (perToken * mask).sum().ToDouble() / tokens;
        _loss += loss.ToDouble();
        _policyLoss += policyLoss.ToDouble();
        _partKl += Mean(logRatio.square()) / 2;
        _clipFraction += Mean(isClipped);
        _partRatio += Mean(ratio);
        _partRatioSquare += Mean(ratio.square());
        var real = ratio.masked_select(mask.to(@bool));
        RatioMinimum = Math.Min(RatioMinimum, real.min().ToDouble());
        RatioMaximum = Math.Max(RatioMaximum, real.max().ToDouble());
    }

    /// <summary>All parts of a step have been added.</summary>
    public void EndStep()
    {
        Steps++;
        StepKl = _partKl;
        _approximateKl += _partKl;
        _ratio += _partRatio;
        _ratioVariance += _partRatioSquare - _partRatio * _partRatio;
        _partKl = _partRatio = _partRatioSquare = 0;
    }

    /// <summary>The record of the update.</summary>
    public PolicyProgress Progress(
        TrainingRun run, int update, int updates, Episode[] episodes, double[] scores, double klCoefficient, double learningRate,
        double gradientNorm)
    {
        double score = scores.Average();
        return new PolicyProgress
        {
            Stage = run.Stage,
            Step = update + 1,
            TotalSteps = updates,
            Loss = Loss,
            LearningRate = learningRate,
            GradientNorm = gradientNorm,
            TokensPerSecond = run.TokensPerSecond,
            Elapsed = run.Elapsed,
            Kl = Kl,
            KlCoefficient = klCoefficient,
            Entropy = Entropy,
            Score = score,
            ScoreDeviation = Math.Sqrt(scores.Average(x => (x - score) * (x - score))),
            RlhfReward = score - klCoefficient * Kl,
            ResponseLength = episodes.Average(e => e.Response.Length),
            EndRate = episodes.Average(e => e.Ended ? 1.0 : 0.0),
            ApproximateKl = ApproximateKl,
            PolicyClipFraction = PolicyClipFraction,
            RatioMean = RatioMean,
            RatioVariance = RatioVariance,
            RatioMinimum = Steps == 0 ? 1 : RatioMinimum,
            RatioMaximum = Steps == 0 ? 1 : RatioMaximum,
            PolicyLoss = PolicyLoss,
            LogProbDrift = LogProbDrift,
            OptimizerSteps = OptimizerSteps,
            SamplingTime = SamplingTime,
            ScoringTime = ScoringTime,
            EvaluationTime = EvaluationTime,
            LearningTime = LearningTime,
            EpisodesPerSecond = (update + 1) * (double)episodes.Length / run.Elapsed.TotalSeconds,
        };
    }
}
