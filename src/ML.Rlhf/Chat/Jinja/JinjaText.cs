using System.Text;

namespace ML.Rlhf.Jinja;

/// <summary>Where characters of a rendering come from.</summary>
[Flags]
internal enum Origin : byte
{
    /// <summary>Written in the template, or one of its own tokens.</summary>
    Template = 0,

    /// <summary>Said by somebody: never to be read as a special token.</summary>
    Message = 1,

    /// <summary>Inside a generation block: what the assistant writes.</summary>
    Assistant = 2,
}

/// <summary>
/// A string that knows of each character where it comes from, through concatenation, trimming, splitting and slicing. Where an operation
/// mixes characters (<c>title</c>, <c>tojson</c>), all of the result counts as coming from everywhere that its input came from.
/// </summary>
/// <param name="value">The characters.</param>
/// <param name="origins">One per character; null where all are the template's.</param>
internal sealed class JinjaText(string value, Origin[]? origins = null) : IEquatable<JinjaText>
{
    public static readonly JinjaText Empty = new("");

    public string Value => value;

    public Origin OriginOf(int index) => origins is null ? Origin.Template : origins[index];

    /// <summary>All the places that some character comes from.</summary>
    private Origin Union => origins is null ? Origin.Template : origins.Aggregate(Origin.Template, (all, one) => all | one);

    /// <summary>A text whose characters all come from the same place.</summary>
    public static JinjaText From(string value, Origin origin)
    {
        if (origin == Origin.Template || value.Length == 0)
            return new JinjaText(value);
        var origins = new Origin[value.Length];
        Array.Fill(origins, origin);
        return new JinjaText(value, origins);
    }

    public static JinjaText Concat(params ReadOnlySpan<JinjaText> parts)
    {
        var builder = new JinjaTextBuilder();
        foreach (var part in parts)
            builder.Append(part);
        return builder.ToText();
    }

    /// <param name="start">In UTF-16 units.</param>
    /// <param name="length">In UTF-16 units.</param>
    public JinjaText Slice(int start, int length) => length == value.Length
        ? this
        : new JinjaText(value.Substring(start, length), origins?[start..(start + length)]);

    /// <summary>Another string that was made of this one, of this one and others.</summary>
    public JinjaText Derive(string result, params ReadOnlySpan<JinjaText> others)
    {
        Origin origin = Union;
        foreach (var other in others)
            origin |= other.Union;
        return From(result, origin);
    }

    /// <summary>The same text with a change that keeps each character's place, such as upper case; otherwise derived as a whole.</summary>
    public JinjaText Map(string result) => result.Length == value.Length ? new JinjaText(result, origins) : Derive(result);

    /// <summary>Where each Unicode code point begins, and the end: Python counts and slices these.</summary>
    public int[] CodePointStarts()
    {
        var starts = new List<int>(value.Length + 1);
        for (int i = 0; i < value.Length; i += char.IsSurrogatePair(value, i) ? 2 : 1)
            starts.Add(i);
        return [.. starts, value.Length];
    }

    public JinjaText Trim(string? characters, bool start, bool end)
    {
        int from = 0, to = value.Length;
        while (start && from < to && IsTrimmed(value[from]))
            from++;
        while (end && to > from && IsTrimmed(value[to - 1]))
            to--;
        return Slice(from, to - from);

        bool IsTrimmed(char c) => characters is null ? IsSpace(c) : characters.Contains(c);
    }

    /// <summary>What Python takes for white space.</summary>
    public static bool IsSpace(char c) => char.IsWhiteSpace(c) || c is >= '\x1c' and <= '\x1f';

    public bool Equals(JinjaText? other) => other is not null && value == other.Value;

    public override bool Equals(object? obj) => Equals(obj as JinjaText);

    public override int GetHashCode() => value.GetHashCode(StringComparison.Ordinal);

    public override string ToString() => value;
}

/// <summary>Puts texts together.</summary>
internal sealed class JinjaTextBuilder
{
    private readonly StringBuilder _value = new();
    private readonly List<Origin> _origins = [];
    private bool _isTemplate = true;

    public int Length => _value.Length;

    /// <summary>Adds a text.</summary>
    /// <param name="text">The text.</param>
    /// <param name="also">What all of its characters come from besides.</param>
    public void Append(JinjaText text, Origin also = Origin.Template)
    {
        _value.Append(text.Value);
        for (int i = 0; i < text.Value.Length; i++)
        {
            var origin = text.OriginOf(i) | also;
            _isTemplate &= origin == Origin.Template;
            _origins.Add(origin);
        }
    }

    public JinjaText ToText() => new(_value.ToString(), _isTemplate ? null : [.. _origins]);
}
