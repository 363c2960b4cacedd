namespace ML.Rlhf;

/// <summary>Something that has a picture.</summary>
internal interface IHtmlDisplay
{
    /// <summary>The picture, as a piece of HTML that needs no other file.</summary>
    string ToHtml();
}

/// <summary>
/// Tells a notebook how to show a class. Kernels of .NET notebooks look for attributes of this name in any assembly, so that nobody has to
/// refer to theirs.
/// </summary>
[AttributeUsage(AttributeTargets.Class)]
internal sealed class TypeFormatterSourceAttribute(Type formatterSourceType) : Attribute
{
    public Type FormatterSourceType { get; } = formatterSourceType;

    public string[]? PreferredMimeTypes { get; set; } = ["text/html", "text/plain"];
}

/// <summary>The formatters that the attribute leads to; kernels call this method by its name.</summary>
internal sealed class HtmlFormatterSource
{
    public IEnumerable<object> CreateTypeFormatters() => [new HtmlFormatter("text/html"), new HtmlFormatter("text/plain")];
}

internal sealed class HtmlFormatter(string mimeType)
{
    public string MimeType => mimeType;

    public bool Format(object instance, TextWriter writer)
    {
        if (instance is not IHtmlDisplay display)
            return false;
        writer.Write(mimeType == "text/html" ? display.ToHtml() : display.ToString());
        return true;
    }
}
