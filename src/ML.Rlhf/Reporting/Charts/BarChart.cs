using System.Xml.Linq;

namespace ML.Rlhf.Charts;

/// <summary>A bar for each of a few amounts, with its part of the whole.</summary>
internal static class BarChart
{
    public static XElement Draw(string title, IReadOnlyList<(string Name, double Amount)> bars)
    {
        const double NamesTo = 90, BarsTo = 290, Row = 36;
        double sum = bars.Sum(bar => bar.Amount), most = bars.Max(bar => bar.Amount);
        return Chart.Frame(title, bars.SelectMany((bar, i) =>
        {
            double y = Chart.Top + i * Row, length = (BarsTo - NamesTo) * bar.Amount / most;
            return new[]
            {
                Chart.Label(NamesTo - 8, y + 14, bar.Name, "end"),
                Chart.Shape("rect", ("x", NamesTo), ("y", y), ("width", length), ("height", 20), ("rx", 2), ("fill", Chart.Colors[0])),
                Chart.Label(NamesTo + length + 6, y + 14, FormattableString.Invariant($"{Html.Number(bar.Amount)} ({bar.Amount / sum:P0})"),
                    "start"),
            };
        }));
    }
}
