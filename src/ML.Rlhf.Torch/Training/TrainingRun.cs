using System.Diagnostics;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Training;

/// <summary>What surrounds one training run: where it runs, its randomness, its clock, and who wants to hear of it.</summary>
internal sealed class TrainingRun(string stage, Device device, int seed, Action<TrainingProgress> report, Action<string> log,
    Action<string> warn, Action checkCanceled)
{
    private readonly Stopwatch _clock = Stopwatch.StartNew();
    private long _tokens;

    public string Stage => stage;

    public Device Device => device;

    public ulong Seed { get; } = unchecked((ulong)seed);

    /// <summary>Writes a line to the log of the caller.</summary>
    public void Log(string message) => log(message);

    /// <summary>Writes a warning to the log of the caller.</summary>
    public void Warn(string message) => warn(message);

    /// <summary>Throws when somebody asked the run to stop.</summary>
    public void ThrowIfCanceled() => checkCanceled();

    /// <summary>Counts tokens towards the speed.</summary>
    public void CountTokens(long tokens) => _tokens += tokens;

    public TimeSpan Elapsed => _clock.Elapsed;

    public double TokensPerSecond => _tokens / Math.Max(1e-9, _clock.Elapsed.TotalSeconds);

    public void Report(TrainingProgress progress) => report(progress);

    /// <summary>Reports a step of a supervised trainer.</summary>
    public void Report(int step, int totalSteps, double loss, double? validationLoss, double learningRate, double gradientNorm) =>
        Report(new TrainingProgress
        {
            Stage = Stage,
            Step = step,
            TotalSteps = totalSteps,
            Loss = loss,
            ValidationLoss = validationLoss,
            LearningRate = learningRate,
            GradientNorm = gradientNorm,
            TokensPerSecond = TokensPerSecond,
            Elapsed = Elapsed,
        });
}
