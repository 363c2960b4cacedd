namespace ML.Rlhf.Tests.Reporting;

/// <summary>Progress records without a run.</summary>
internal static class Records
{
    public static TrainingProgress Of(int step, int total = 100, double loss = 2.5, string stage = "GPT", double? validation = null) => new()
    {
        Stage = stage,
        Step = step,
        TotalSteps = total,
        Loss = loss,
        ValidationLoss = validation,
        LearningRate = 1e-3,
        GradientNorm = 1,
        TokensPerSecond = 12_345,
        Elapsed = TimeSpan.FromSeconds(step),
    };

    public static PolicyProgress OfPolicy(int step, int total = 10, double score = 0.5, params TrainingAlarm[] alarms) => new()
    {
        Stage = "PPO",
        Step = step,
        TotalSteps = total,
        Loss = 0.1,
        LearningRate = 1e-5,
        GradientNorm = 1,
        TokensPerSecond = 100,
        Elapsed = TimeSpan.FromSeconds(60 * step),
        Kl = 1.5,
        KlCoefficient = 0.05,
        Entropy = 3,
        Score = score,
        ScoreDeviation = 1,
        RlhfReward = 0.4,
        ResponseLength = 20,
        EndRate = 0.9,
        ApproximateKl = 0.01,
        PolicyClipFraction = 0.1,
        RatioMean = 1,
        RatioVariance = 0.01,
        RatioMinimum = 0.5,
        RatioMaximum = 2,
        PolicyLoss = 0.05,
        LogProbDrift = 1e-5,
        OptimizerSteps = 4,
        EpisodesPerSecond = 10,
        Alarms = alarms,
    };
}
