using System.Xml.Linq;

namespace ML.Rlhf.Charts;

/// <summary>Points of a line, in the order of their x.</summary>
/// <param name="Name">What the legend calls it.</param>
/// <param name="Points">Where one is not finite, the line is broken.</param>
/// <param name="ErrorBars">Half the height of a bar at each point; null for none.</param>
internal sealed record Series(string Name, IReadOnlyList<(double X, double Y)> Points, IReadOnlyList<double>? ErrorBars = null);

/// <summary>Lines over an axis, such as a loss over steps.</summary>
internal static class LineChart
{
    private const int MostPoints = 240, NoisyFrom = 80;

    /// <summary>Draws lines; a long and so a noisy one pale, with its running mean over it.</summary>
    public static XElement Draw(string title, string xName, params IReadOnlyList<Series> series)
    {
        var points = series.SelectMany(line => line.Points.Select((p, i) => (p.X, p.Y, Error: line.ErrorBars?[i] ?? 0)))
            .Where(p => double.IsFinite(p.Y)).ToArray();
        if (points.Length == 0)
            return Chart.Frame(title, Chart.Label(Chart.Width / 2, Chart.Height / 2, "no finite numbers", "middle"));
        var x = new Axis(points.Min(p => p.X), points.Max(p => p.X), Chart.Left, Chart.Right, isTight: true);
        var y = new Axis(points.Min(p => p.Y - Finite(p.Error)), points.Max(p => p.Y + Finite(p.Error)), Chart.Bottom, Chart.Top, marks: 4);
        return Chart.Frame(
            title,
            series.Count > 1 ? Chart.Legend([.. series.Select(line => line.Name)]) : null,
            Chart.Axes(x, y, xName),
            series.SelectMany((line, i) => Draw(line, x, y, Chart.ColorOf(i))));
    }

    private static IEnumerable<XElement> Draw(Series line, Axis x, Axis y, string color)
    {
        bool isNoisy = line.Points.Count >= NoisyFrom;
        yield return Chart.Line(Thinned(line.Points), x, y, color, isNoisy ? 1 : 1.8, isNoisy ? 0.35 : 1);
        if (isNoisy)
            yield return Chart.Line(RunningMean(line.Points), x, y, color, 2);
        for (int i = 0; i < line.Points.Count && line.ErrorBars is not null; i++)
        {
            var ((px, py), error) = (line.Points[i], Finite(line.ErrorBars[i]));
            yield return Chart.Shape(
                "line", ("x1", x[px]), ("x2", x[px]), ("y1", y[py - error]), ("y2", y[py + error]), ("stroke", color));
        }
        if (line.Points.Count > 24)
            yield break;
        foreach (var (px, py) in line.Points.Where(p => double.IsFinite(p.Y)))
            yield return Chart.Shape("circle", ("cx", x[px]), ("cy", y[py]), ("r", 2.5), ("fill", color));
    }

    private static double Finite(double error) => double.IsFinite(error) ? error : 0;

    /// <summary>Of each of some stretches the lowest and the highest point, so that no spike is lost.</summary>
    private static IEnumerable<(double X, double Y)> Thinned(IReadOnlyList<(double X, double Y)> points) => points.Count <= MostPoints
        ? points
        : points.Chunk(points.Count * 2 / MostPoints + 1)
            .SelectMany(stretch => new[] { stretch.MinBy(p => p.Y), stretch.MaxBy(p => p.Y) }.OrderBy(p => p.X));

    /// <summary>The mean of a fiftieth of the points around each of them.</summary>
    private static IEnumerable<(double X, double Y)> RunningMean(IReadOnlyList<(double X, double Y)> points)
    {
        int around = points.Count / 100 + 1;
        for (int i = 0; i < points.Count; i += Math.Max(1, points.Count / MostPoints))
        {
            int from = Math.Max(0, i - around), to = Math.Min(points.Count, i + around + 1);
            double[] near = [.. Enumerable.Range(from, to - from).Select(k => points[k].Y).Where(double.IsFinite)];
            yield return (points[i].X, near.Length == 0 ? double.NaN : near.Average());
        }
    }
}
