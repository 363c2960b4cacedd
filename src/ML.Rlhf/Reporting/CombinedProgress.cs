namespace ML.Rlhf;

/// <summary>Gives each record to several reporters, in their order: one for the console, one that remembers, one for TensorBoard.</summary>
public sealed class CombinedProgress : IProgress<TrainingProgress>
{
    private readonly IProgress<TrainingProgress>[] _reporters;

    /// <summary>Combines some reporters.</summary>
    /// <param name="reporters">None of them null.</param>
    /// <exception cref="ArgumentNullException">One of them is null.</exception>
    public CombinedProgress(params IProgress<TrainingProgress>[] reporters)
    {
        ArgumentNullException.ThrowIfNull(reporters);
        foreach (var reporter in reporters)
            ArgumentNullException.ThrowIfNull(reporter, nameof(reporters));
        _reporters = [.. reporters];
    }

    /// <inheritdoc/>
    public void Report(TrainingProgress value)
    {
        foreach (var reporter in _reporters)
            reporter.Report(value);
    }
}
