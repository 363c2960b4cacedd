using System.Globalization;

namespace ML.Rlhf;

/// <summary>A progress record as a line of text.</summary>
internal static class ProgressLine
{
    /// <summary>For the log, where lines of all stages stand below each other.</summary>
    public static string ForLog(TrainingProgress p) => string.Create(
        CultureInfo.InvariantCulture,
        $"{p.Stage} step {p.Step}/{p.TotalSteps} {Measures(p)} lr {p.LearningRate:G3} {p.TokensPerSecond:F0} tokens/s " +
        $"left {p.Remaining:hh\\:mm\\:ss}");

    /// <summary>For a console: steps of one run stand below each other.</summary>
    public static string ForConsole(TrainingProgress p) => string.Create(
        CultureInfo.InvariantCulture,
        $"{Steps(p)} {Measures(p)} {p.TokensPerSecond:F0} tokens/s left {Left(p.Remaining)}");

    private static string Steps(TrainingProgress p)
    {
        string total = p.TotalSteps.ToString(CultureInfo.InvariantCulture);
        return p.Step.ToString(CultureInfo.InvariantCulture).PadLeft(total.Length) + "/" + total;
    }

    private static string Measures(TrainingProgress p) => string.Create(CultureInfo.InvariantCulture, $"loss {p.Loss:F4}")
        + (p.ValidationLoss is { } loss ? string.Create(CultureInfo.InvariantCulture, $" validation {loss:F4}") : "") + p.Details;

    private static string Left(TimeSpan time) => time.TotalHours >= 24
        ? string.Create(CultureInfo.InvariantCulture, $"{time.Days} d {time.Hours} h")
        : time.ToString(time.TotalHours >= 1 ? @"h\:mm\:ss" : @"m\:ss", CultureInfo.InvariantCulture);
}
