using System.Globalization;

namespace ML.Rlhf.Benchmarks.Measuring;

/// <summary>Some measurements of the same thing.</summary>
internal readonly record struct Spread(double Median, double Minimum, double Maximum)
{
    /// <param name="values">At least one.</param>
    public static Spread Of(IEnumerable<double> values)
    {
        double[] sorted = [.. values.Order()];
        double median = (sorted[(sorted.Length - 1) / 2] + sorted[sorted.Length / 2]) / 2;
        return new Spread(median, sorted[0], sorted[^1]);
    }

    /// <summary>The ratios of the two measurements of each round: both saw the same weather.</summary>
    public static Spread OfRatios(IEnumerable<double> ours, IEnumerable<double> peers) => Of(ours.Zip(peers, (our, peer) => our / peer));

    /// <param name="format">How a number is written.</param>
    /// <returns>"1.72 min 1.65 max 1.80".</returns>
    public string ToString(string format)
    {
        var invariant = CultureInfo.InvariantCulture;
        return $"{Median.ToString(format, invariant)} min {Minimum.ToString(format, invariant)} max {Maximum.ToString(format, invariant)}";
    }
}
