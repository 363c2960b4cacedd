using System.Collections;

namespace ML.Rlhf.Samples.Tests.Notebooks;

/// <summary>What the kernel of a .NET notebook adds to C#: <c>value.Display()</c>.</summary>
public static class Display
{
    private static List<Output>? s_sink;

    /// <summary>Shows a value in the cell that is running.</summary>
    public static T DisplayAs<T>(T value)
    {
        s_sink?.Add(new Output("display_data", Bundle(value)));
        return value;
    }

    /// <summary>Where values are shown from now on; null for nowhere.</summary>
    internal static void Into(List<Output>? sink) => s_sink = sink;

    /// <summary>A value in all forms that it has: by the formatter that its type names, by the convention of the kernel, or as text.</summary>
    internal static IReadOnlyDictionary<string, string> Bundle(object? value)
    {
        var forms = new Dictionary<string, string>();
        var attribute = value?.GetType().GetCustomAttributes(inherit: true).FirstOrDefault(a => a.GetType().Name == "TypeFormatterSourceAttribute");
        if (attribute?.GetType().GetProperty("FormatterSourceType")?.GetValue(attribute) is Type source)
        {
            foreach (object formatter in (IEnumerable)source.GetMethod("CreateTypeFormatters")!.Invoke(Activator.CreateInstance(source), null)!)
            {
                var writer = new StringWriter();
                if ((bool)formatter.GetType().GetMethod("Format")!.Invoke(formatter, [value, writer])!)
                    forms[(string)formatter.GetType().GetProperty("MimeType")!.GetValue(formatter)!] = writer.ToString();
            }
        }
        if (forms.Count == 0)
            forms["text/plain"] = value is IEnumerable many and not string
                ? "[ " + string.Join(", ", many.Cast<object?>().Take(50)) + " ]"
                : $"{value}";
        return forms;
    }
}

/// <summary>The kernel's name for it.</summary>
public static class DisplayExtensions
{
    /// <inheritdoc cref="Notebooks.Display.DisplayAs"/>
    public static T Display<T>(this T value) => Notebooks.Display.DisplayAs(value);
}
