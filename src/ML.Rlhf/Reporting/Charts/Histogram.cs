using System.Xml.Linq;

namespace ML.Rlhf.Charts;

/// <summary>How often numbers occur, for one or several groups, such as scores before and after.</summary>
internal static class Histogram
{
    private const int MostBins = 30;

    public static XElement Draw(string title, string xName, params IReadOnlyList<(string Name, IReadOnlyList<double> Values)> groups)
    {
        double[] all = [.. groups.SelectMany(group => group.Values).Where(double.IsFinite)];
        if (all.Length == 0)
            return Chart.Frame(title, Chart.Label(Chart.Width / 2, Chart.Height / 2, "no finite numbers", "middle"));
        double least = all.Min(), range = all.Max() - least;
        int bins = Bins(all);
        if (range <= 1e-9 * Math.Max(1, Math.Abs(least))) // all the same: one bar around it
            (least, range, bins) = (least - 0.5, 1, 1);
        double width = range / bins;
        double[][] parts = [.. groups.Select(group => Parts(group.Values, least, width, bins))];
        var x = new Axis(least, least + bins * width, Chart.Left, Chart.Right, isTight: true);
        var y = new Axis(0, parts.Max(part => part.Max()), Chart.Bottom, Chart.Top, marks: 4);
        return Chart.Frame(
            title,
            groups.Count > 1 ? Chart.Legend([.. groups.Select(group => group.Name)]) : null,
            Chart.Axes(x, y, xName),
            parts.Select((part, i) => Outline(part, least, width, x, y, Chart.ColorOf(i))));
    }

    /// <summary>Freedman and Diaconis 1981: bins of twice the interquartile range over the cube root of the count.</summary>
    private static int Bins(double[] values)
    {
        double[] sorted = [.. values.Order()];
        double spread = sorted[sorted.Length * 3 / 4] - sorted[sorted.Length / 4], range = sorted[^1] - sorted[0];
        return spread == 0 ? MostBins : (int)Math.Clamp(range / (2 * spread / Math.Cbrt(sorted.Length)), 5, MostBins);
    }

    private static double[] Parts(IReadOnlyList<double> values, double least, double width, int bins)
    {
        double[] parts = new double[bins];
        foreach (double value in values.Where(double.IsFinite))
            parts[Math.Min(bins - 1, (int)((value - least) / width))] += 1.0 / values.Count;
        return parts;
    }

    private static XElement Outline(double[] parts, double least, double width, Axis x, Axis y, string color)
    {
        var corners = parts.SelectMany((part, i) => new[] { (least + i * width, part), (least + (i + 1) * width, part) });
        var line = Chart.Line([(least, 0), .. corners, (least + parts.Length * width, 0)], x, y, color, 1.5);
        line.SetAttributeValue("fill", color);
        line.SetAttributeValue("fill-opacity", ".25");
        return line;
    }
}
