using System.Globalization;
using System.Text.RegularExpressions;

namespace ML.Rlhf.Benchmarks.Measuring;

/// <summary>What one process measured of itself.</summary>
/// <param name="Unit">What is counted: "tokens" or "episodes".</param>
/// <param name="PerSecond">How many of them a second.</param>
/// <param name="PeakMegabytes">The most memory that the process had; 0 where the system does not say.</param>
/// <param name="AllocatedPerStep">Managed bytes allocated per step; null where there are no steps, or nothing is managed.</param>
internal sealed partial record Measurement(string Unit, double PerSecond, double PeakMegabytes, double? AllocatedPerStep = null)
{
    /// <summary>The line that hands a measurement to the process that asked for it.</summary>
    /// <param name="who">"ours" or "peer".</param>
    public string ToLine(string who) => string.Create(
        CultureInfo.InvariantCulture,
        $"{who} {Unit}/s={PerSecond:F1} peak-MB={PeakMegabytes:F0}{(AllocatedPerStep is { } bytes ? $" allocated-per-step={bytes:F0}" : "")}");

    /// <summary>Finds that line in all that a process printed.</summary>
    /// <exception cref="FormatException">There is none.</exception>
    public static Measurement Parse(string who, string output)
    {
        var match = Line().Matches(output).LastOrDefault(m => m.Groups["who"].Value == who)
            ?? throw new FormatException($"There is no line \"{who} …/s=… peak-MB=…\" in: {output.Trim()}");
        double Number(string group) => double.Parse(match.Groups[group].Value, CultureInfo.InvariantCulture);
        return new Measurement(
            match.Groups["unit"].Value, Number("rate"), Number("peak"), match.Groups["bytes"].Success ? Number("bytes") : null);
    }

    [GeneratedRegex(
        @"^(?<who>\w+) (?<unit>\w+)/s=(?<rate>[\d.]+) peak-MB=(?<peak>[\d.]+)(?: allocated-per-step=(?<bytes>[\d.]+))?\s*$",
        RegexOptions.Multiline)]
    private static partial Regex Line();
}
