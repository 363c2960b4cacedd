using System.Diagnostics;

namespace ML.Rlhf.Benchmarks.Measuring;

/// <summary>Times a training loop by the reports that it gives after each step. The first steps are left out.</summary>
/// <param name="warmup">How many steps are left out; at least 1.</param>
internal sealed class StepClock(int warmup)
{
    private long _start, _end, _bytesAtStart, _bytesAtEnd;
    private int _steps;

    public void Report(TrainingProgress progress)
    {
        if (progress.Step < warmup)
            return;
        _end = Stopwatch.GetTimestamp();
        _bytesAtEnd = GC.GetTotalAllocatedBytes(precise: true);
        _steps = progress.Step - warmup;
        if (_steps == 0)
            (_start, _bytesAtStart) = (Stopwatch.GetTimestamp(), _bytesAtEnd);
    }

    /// <param name="unit">What is counted.</param>
    /// <param name="perStep">How many of them a step has.</param>
    public Measurement Measure(string unit, int perStep) => new(
        unit, (double)perStep * _steps / Stopwatch.GetElapsedTime(_start, _end).TotalSeconds, Memory.PeakMegabytes(),
        (double)(_bytesAtEnd - _bytesAtStart) / _steps);
}

internal static class Memory
{
    /// <summary>The most memory that this process has had in RAM; 0 where the system does not say.</summary>
    public static double PeakMegabytes()
    {
        if (!OperatingSystem.IsLinux())
            return Process.GetCurrentProcess().PeakWorkingSet64 / 1048576.0;
        string line = File.ReadLines("/proc/self/status").First(l => l.StartsWith("VmHWM:", StringComparison.Ordinal)); // "VmHWM: 1234 kB"
        return int.Parse(line.Split(':')[1].Replace("kB", "", StringComparison.Ordinal)) / 1024.0;
    }
}
