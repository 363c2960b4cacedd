using System.Globalization;
using System.Text;
using System.Xml.Linq;
using static ML.Rlhf.Charts.Html;

namespace ML.Rlhf.Charts;

/// <summary>A square of weights from 0 to 1: a row for each token that looks, a column for each that it looks at.</summary>
internal static class HeatMap
{
    private const int Shades = 10, LabelsUpTo = 24;

    public static XElement Draw(string title, float[,] weights, IReadOnlyList<string> tokens)
    {
        int n = weights.GetLength(0);
        bool hasLabels = n <= LabelsUpTo;
        double cell = hasLabels ? 16 : 160.0 / n, margin = hasLabels ? 8 + 7 * tokens.Max(t => Shown(t).Length) : 6, top = 22;
        double width = margin + n * cell + 6, height = top + n * cell + (hasLabels ? margin + 6 : 6);
        return Element(
            "svg", new XAttribute("viewBox", FormattableString.Invariant($"0 0 {width:0} {height:0}")),
            new XAttribute("style", FormattableString.Invariant($"width:{width:0}px;max-width:100%;height:auto")),
            new XAttribute("font-family", "system-ui,sans-serif"), new XAttribute("font-size", "11"),
            new XAttribute("role", "img"), Attribute("aria-label", title),
            Chart.Label(margin, 13, title, "start", ("font-weight", "600"), ("font-size", "12")),
            Chart.Shape("rect", ("x", margin), ("y", top), ("width", n * cell), ("height", n * cell), ("fill", "none"),
                ("stroke", "currentColor"), ("stroke-opacity", ".25")),
            Enumerable.Range(1, Shades).Select(shade => Cells(weights, shade, margin, top, cell)),
            hasLabels ? tokens.SelectMany((token, i) => Labels(token, margin, top + (i + 0.5) * cell, margin + (i + 0.5) * cell,
                top + n * cell)) : null);
    }

    /// <summary>All cells of one shade are one path, which keeps a map of a thousand cells small.</summary>
    private static XElement? Cells(float[,] weights, int shade, double left, double top, double cell)
    {
        var path = new StringBuilder();
        for (int row = 0; row < weights.GetLength(0); row++)
        {
            for (int column = 0; column <= row; column++)
            {
                if ((int)Math.Ceiling(weights[row, column] * Shades - 0.2) == shade)
                    path.Append(
                        CultureInfo.InvariantCulture,
                        $"M{left + column * cell:0.#} {top + row * cell:0.#}h{cell:0.##}v{cell:0.##}h-{cell:0.##}z");
            }
        }
        return path.Length == 0 ? null
            : Chart.Shape("path", ("d", path.ToString()), ("fill", Chart.Colors[0]), ("fill-opacity", (double)shade / Shades));
    }

    private static IEnumerable<XElement> Labels(string token, double left, double rowMiddle, double columnMiddle, double bottom)
    {
        yield return Chart.Label(left - 4, rowMiddle + 4, Shown(token), "end");
        yield return Chart.Label(columnMiddle + 3, bottom + 4, Shown(token), "end",
            ("transform", FormattableString.Invariant($"rotate(-90 {columnMiddle + 3:0.#} {bottom + 4:0.#})")));
    }

    private static string Shown(string token) => token.Length switch
    {
        0 => "␀",
        > 10 => token[..9] + "…",
        _ => token.Replace(' ', '·').Replace('\n', '⏎'),
    };
}
