namespace ML.Rlhf.Charts;

/// <summary>A range of numbers with round marks, on some pixels.</summary>
internal sealed class Axis
{
    private readonly double _from, _to, _start, _end;

    /// <param name="least">The least number to show.</param>
    /// <param name="greatest">The greatest number to show.</param>
    /// <param name="start">The pixel of the least.</param>
    /// <param name="end">The pixel of the greatest.</param>
    /// <param name="marks">About how many marks.</param>
    /// <param name="isTight">Whether the range ends with the numbers, or with the next marks.</param>
    public Axis(double least, double greatest, double start, double end, int marks = 5, bool isTight = false)
    {
        if (greatest - least <= 1e-12 * Math.Max(1, Math.Abs(greatest))) // all the same: it stands in the middle
            (least, greatest) = (least - Math.Max(0.5, Math.Abs(least) / 10), greatest + Math.Max(0.5, Math.Abs(greatest) / 10));
        double step = Round((greatest - least) / marks);
        (_from, _to) = isTight ? (least, greatest) : (Math.Floor(least / step) * step, Math.Ceiling(greatest / step) * step);
        (_start, _end) = (start, end);
        int first = (int)Math.Ceiling(_from / step - 1e-9), last = (int)Math.Floor(_to / step + 1e-9);
        Marks = [.. Enumerable.Range(first, last - first + 1).Select(i => i * step)];
    }

    public IReadOnlyList<double> Marks { get; }

    /// <summary>Where a number stands.</summary>
    public double this[double value] => _start + (value - _from) / (_to - _from) * (_end - _start);

    /// <summary>1, 2 or 5 times a power of ten, and no less than a number.</summary>
    private static double Round(double step)
    {
        double power = Math.Pow(10, Math.Floor(Math.Log10(step)));
        return (step / power) switch { <= 1 => 1, <= 2 => 2, <= 5 => 5, _ => 10 } * power;
    }
}
