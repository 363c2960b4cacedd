using System.Globalization;
using System.Text;
using System.Xml;
using System.Xml.Linq;

namespace ML.Rlhf.Charts;

/// <summary>HTML and SVG as trees, so that nobody forgets to escape.</summary>
internal static class Html
{
    private static readonly HashSet<string> s_mayBeEmpty =
        ["br", "hr", "meta", "circle", "line", "path", "polyline", "rect"]; // HTML has no <td/>, SVG has <path/>

    /// <summary>An element with attributes and content, in any order; texts are cleaned of what XML cannot hold.</summary>
    public static XElement Element(string name, params object?[] content) => new(name, Clean(content));

    public static XAttribute Attribute(string name, object value) => new(name, value is string text ? Clean(text) : Text(value));

    /// <summary>A number as people read it: at most four digits that say something, thousands as k.</summary>
    public static string Number(double value)
    {
        double size = Math.Abs(value);
        return !double.IsFinite(value) ? value.ToString(CultureInfo.InvariantCulture)
            : size >= 1e7 || size is > 0 and < 1e-4 ? value.ToString("0.###e+0", CultureInfo.InvariantCulture)
            : size >= 1e4 ? (value / 1000).ToString("0.#", CultureInfo.InvariantCulture) + "k"
            : size >= 100 ? value.ToString("0.#", CultureInfo.InvariantCulture)
            : size >= 1 ? value.ToString("0.###", CultureInfo.InvariantCulture)
            : value.ToString("0.####", CultureInfo.InvariantCulture);
    }

    /// <summary>How long something took, as people say it.</summary>
    public static string Duration(TimeSpan time) =>
        time.TotalDays >= 1 ? string.Create(CultureInfo.InvariantCulture, $"{time.Days} d {time.Hours} h")
        : time.TotalHours >= 1 ? string.Create(CultureInfo.InvariantCulture, $"{time.Hours} h {time.Minutes} min")
        : time.TotalMinutes >= 1 ? string.Create(CultureInfo.InvariantCulture, $"{time.Minutes} min {time.Seconds} s")
        : string.Create(CultureInfo.InvariantCulture, $"{time.TotalSeconds:0.#} s");

    public static string Render(XElement root)
    {
        foreach (var element in root.DescendantsAndSelf().Where(e => e.IsEmpty && !s_mayBeEmpty.Contains(e.Name.LocalName)))
            element.Value = "";
        return root.ToString(SaveOptions.DisableFormatting);
    }

    /// <summary>Columns with a head, such as the settings of a run.</summary>
    public static XElement Table(IReadOnlyList<string> head, IEnumerable<IReadOnlyList<object>> rows) => Element(
        "table",
        Element("thead", Element("tr", head.Select(name => Element("th", Left, name)))),
        Element("tbody", rows.Select(row => Element("tr", row.Select(cell => Element("td", Left, cell))))));

    // Notebooks put cells of tables to the right.
    private static XAttribute Left => new("style", "text-align:left;vertical-align:top");

    private static object?[] Clean(object?[] content) => [.. content.Select(part => part is string text ? Clean(text) : part)];

    private static string Text(object value) =>
        value is double number ? number.ToString("0.##", CultureInfo.InvariantCulture)
        : Convert.ToString(value, CultureInfo.InvariantCulture)!;

    /// <summary>Models write anything: control characters and halves of characters become U+FFFD.</summary>
    private static string Clean(string text)
    {
        var clean = new StringBuilder(text.Length);
        foreach (var rune in text.EnumerateRunes()) // a lone surrogate comes out as U+FFFD
            clean.Append(rune.IsBmp && !XmlConvert.IsXmlChar((char)rune.Value) ? Rune.ReplacementChar : rune);
        return clean.ToString();
    }
}
