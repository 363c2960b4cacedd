using System.Globalization;
using System.Text;
using System.Xml.Linq;
using static ML.Rlhf.Charts.Html;

namespace ML.Rlhf.Charts;

/// <summary>
/// What charts share: a frame with title, legend and axes. Text and lines have the color of the text around, so a chart fits a light and a
/// dark page; a width of 400 units keeps its text legible on a phone.
/// </summary>
internal static class Chart
{
    public const double Width = 400, Height = 240, Left = 50, Right = 388, Top = 52, Bottom = 204;

    /// <summary>Colors of series that can be told apart on white and on black, and by those who do not see red or green.</summary>
    public static IReadOnlyList<string> Colors { get; } = ["#3b82d0", "#e08214", "#1b9e77", "#b06fc4", "#d6455d", "#7f8c8d"];

    public static string ColorOf(int series) => Colors[series % Colors.Count];

    public static XElement Frame(string title, params object?[] content) => Element(
        "svg",
        new XAttribute("viewBox", FormattableString.Invariant($"0 0 {Width} {Height}")),
        new XAttribute("style", "width:100%;max-width:480px;height:auto"),
        new XAttribute("font-family", "system-ui,sans-serif"), new XAttribute("font-size", "11"),
        new XAttribute("role", "img"), Attribute("aria-label", title),
        Label(8, 16, title, "start", ("font-weight", "600"), ("font-size", "13")),
        content);

    /// <summary>Name and color of each series, in a line under the title.</summary>
    public static IEnumerable<XElement> Legend(IReadOnlyList<string> names)
    {
        double x = 12;
        for (int i = 0; i < names.Count; i++)
        {
            yield return Shape("circle", ("cx", x), ("cy", 30), ("r", 4), ("fill", ColorOf(i)));
            yield return Label(x + 8, 34, names[i], "start");
            x += 24 + 6.2 * names[i].Length;
        }
    }

    public static IEnumerable<XElement> Axes(Axis x, Axis y, string xName)
    {
        foreach (double mark in y.Marks)
        {
            yield return Shape("line", ("x1", Left), ("x2", Right), ("y1", y[mark]), ("y2", y[mark]), ("stroke", "currentColor"),
                ("stroke-opacity", ".15"));
            yield return Label(Left - 6, y[mark] + 4, Number(mark), "end");
        }
        foreach (double mark in x.Marks)
            yield return Label(x[mark], Bottom + 15, Number(mark), "middle");
        yield return Label((Left + Right) / 2, Bottom + 31, xName, "middle", ("fill-opacity", ".7"));
    }

    /// <summary>A line through points; it is broken where a number is not finite.</summary>
    public static XElement Line(IEnumerable<(double X, double Y)> points, Axis x, Axis y, string color, double width, double opacity = 1)
    {
        var path = new StringBuilder();
        bool isDown = false;
        foreach (var (px, py) in points)
        {
            bool isPoint = double.IsFinite(py);
            if (isPoint)
                path.Append(isDown ? 'L' : 'M').Append(CultureInfo.InvariantCulture, $"{x[px]:0.#} {y[py]:0.#}");
            isDown = isPoint;
        }
        return Shape("path", ("d", path.ToString()), ("fill", "none"), ("stroke", color), ("stroke-width", width),
            ("stroke-opacity", opacity), ("stroke-linejoin", "round"));
    }

    public static XElement Label(double x, double y, string text, string anchor, params (string Name, object Value)[] attributes) =>
        Element(
            "text", Attribute("x", x), Attribute("y", y), Attribute("text-anchor", anchor), Attribute("fill", "currentColor"),
            attributes.Select(a => Attribute(a.Name, a.Value)), text);

    public static XElement Shape(string name, params (string Name, object Value)[] attributes) =>
        new(name, attributes.Select(a => Attribute(a.Name, a.Value)));
}
