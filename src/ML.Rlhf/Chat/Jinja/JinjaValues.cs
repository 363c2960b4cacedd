using System.Globalization;
using System.Text;

namespace ML.Rlhf.Jinja;

// A value is null (none), a bool, a long, a double, a JinjaText, or one of these.

/// <summary>A name or an attribute that is not there: empty when printed, false when asked, an error when used.</summary>
internal sealed record Undefined(string Description)
{
    public JinjaException Error() => new($"{Description} is undefined");
}

internal sealed record Sequence(IReadOnlyList<object?> Items, bool IsTuple = false)
{
    /// <summary>See <see cref="Python.Weight"/>.</summary>
    public double Weight { get; } = 1 + Items.Sum(Python.Weight);

    public int Depth { get; } = Python.DepthAround(Items);
}

/// <summary>A dictionary in the order in which it was written.</summary>
internal sealed record Mapping(OrderedDictionary<object, object?> Items)
{
    /// <summary>See <see cref="Python.Weight"/>.</summary>
    public double Weight { get; } = 1 + Items.Sum(item => Python.Weight(item.Key) + Python.Weight(item.Value));

    public int Depth { get; } = Python.DepthAround(Items.Values);
}

/// <summary>The one value that can be changed: <c>namespace()</c>, which loops write through.</summary>
internal sealed record Namespace(Dictionary<string, object?> Attributes);

/// <summary>A macro, a global function or a method that was not called yet.</summary>
internal sealed record Callable(Func<JinjaArguments, object?> Invoke);

/// <summary>What <c>loop</c> is.</summary>
internal sealed record LoopState(IReadOnlyList<object?> Items, int Index, int Depth);

/// <summary>The arguments of a call.</summary>
internal sealed record JinjaArguments(IReadOnlyList<object?> Positional, IReadOnlyDictionary<string, object?> Named)
{
    public static readonly JinjaArguments None = new([], new Dictionary<string, object?>());

    /// <summary>An argument by place or by name.</summary>
    public bool TryGet(int index, string name, out object? value)
    {
        bool given = index < Positional.Count;
        value = given ? Positional[index] : null;
        return given || Named.TryGetValue(name, out value);
    }

    public object? Get(int index, string name) =>
        TryGet(index, name, out object? value) ? value : throw new JinjaException($"the argument '{name}' is missing");

    public JinjaText? Text(int index, string name) =>
        TryGet(index, name, out object? value) && value is not null ? Python.AsText(value) : null;

    public long Integer(int index, string name, long otherwise) => TryGet(index, name, out object? value) && value is not null
        ? Python.AsInteger(value, name)
        : otherwise;

    public bool Flag(int index, string name, bool otherwise = false) =>
        TryGet(index, name, out object? value) ? Python.IsTrue(value) : otherwise;
}

/// <summary>What Python makes of values: truth, equality, order, text.</summary>
internal static class Python
{
    private const int MaximumDepth = 50;

    /// <summary>
    /// The characters and items that something which goes through all of a value sees. A list that holds the same list many times has
    /// its weight many times, so few steps can make a heavy one.
    /// </summary>
    public static double Weight(object? value) => value switch
    {
        JinjaText text => text.Value.Length,
        Sequence list => list.Weight,
        Mapping map => map.Weight,
        _ => 1,
    };

    /// <summary>The depth of a list or dictionary of some items.</summary>
    public static int DepthAround(IEnumerable<object?> items)
    {
        int depth = 1 + items.Select(item => item switch { Sequence list => list.Depth, Mapping map => map.Depth, _ => 0 })
            .DefaultIfEmpty().Max();
        return depth <= MaximumDepth
            ? depth
            : throw new JinjaException($"lists and dictionaries stand more than {MaximumDepth} deep in each other");
    }

    public static bool IsTrue(object? value) => value switch
    {
        null or Undefined => false,
        bool b => b,
        long n => n != 0,
        double x => x != 0,
        JinjaText text => text.Value.Length > 0,
        Sequence list => list.Items.Count > 0,
        Mapping map => map.Items.Count > 0,
        _ => true,
    };

    public static bool AreEqual(object? a, object? b)
    {
        if (Number(a) is { } x && Number(b) is { } y)
            return x == y;
        return (a, b) switch
        {
            (null, null) or (Undefined, Undefined) => true,
            (JinjaText s, JinjaText t) => s.Equals(t),
            (Sequence s, Sequence t) => s.IsTuple == t.IsTuple && s.Items.Count == t.Items.Count
                && s.Items.Zip(t.Items).All(pair => AreEqual(pair.First, pair.Second)),
            (Mapping s, Mapping t) => s.Items.Count == t.Items.Count
                && s.Items.All(item => t.Items.TryGetValue(item.Key, out object? other) && AreEqual(item.Value, other)),
            _ => ReferenceEquals(a, b),
        };
    }

    /// <exception cref="JinjaException">The two have no order.</exception>
    public static int Compare(object? a, object? b)
    {
        if (Number(a) is { } x && Number(b) is { } y)
            return x.CompareTo(y);
        if (a is JinjaText s && b is JinjaText t)
            return CompareText(s.Value, t.Value);
        throw (a as Undefined ?? b as Undefined)?.Error() ?? new JinjaException($"{TypeName(a)} and {TypeName(b)} cannot be ordered");
    }

    /// <summary>By code point, as Python compares; UTF-16 units would put an emoji before some other characters.</summary>
    private static int CompareText(string a, string b)
    {
        int common = a.AsSpan().CommonPrefixLength(b);
        if (common == a.Length || common == b.Length)
            return a.Length.CompareTo(b.Length);
        char c = a[common], d = b[common];
        return char.IsSurrogate(c) == char.IsSurrogate(d) ? c.CompareTo(d) : char.IsSurrogate(c) ? 1 : -1;
    }

    /// <summary>A number as a double, also of a Boolean; null for anything else.</summary>
    public static double? Number(object? value) => value switch
    {
        bool b => b ? 1 : 0,
        long n => n,
        double x => x,
        _ => null,
    };

    public static long? Integer(object? value) => value switch { bool b => b ? 1 : 0, long n => n, _ => null };

    public static long AsInteger(object? value, string what) =>
        Integer(value) ?? throw new JinjaException($"'{what}' must be an integer, not {TypeName(value)}");

    /// <summary>What <c>str(value)</c> is.</summary>
    public static JinjaText AsText(object? value) => value switch
    {
        JinjaText text => text,
        Undefined => JinjaText.Empty,
        _ => JinjaText.From(Write(value, topLevel: true), Contains(value)),
    };

    /// <summary>Where the characters inside of a value come from.</summary>
    public static Origin Contains(object? value) => value switch
    {
        JinjaText text => text.Value.Length == 0 ? Origin.Template
            : Enumerable.Range(0, text.Value.Length).Aggregate(Origin.Template, (all, i) => all | text.OriginOf(i)),
        Sequence list => list.Items.Aggregate(Origin.Template, (all, item) => all | Contains(item)),
        Mapping map => map.Items.Aggregate(Origin.Template, (all, item) => all | Contains(item.Key) | Contains(item.Value)),
        _ => Origin.Template,
    };

    private static string Write(object? value, bool topLevel = false) => value switch
    {
        null => "None",
        bool b => b ? "True" : "False",
        long n => n.ToString(CultureInfo.InvariantCulture),
        double x => Write(x),
        JinjaText text => topLevel ? text.Value : Quote(text.Value),
        Sequence { IsTuple: true, Items.Count: 1 } list => $"({Write(list.Items[0])},)",
        Sequence { IsTuple: true } list => $"({string.Join(", ", list.Items.Select(item => Write(item)))})",
        Sequence list => $"[{string.Join(", ", list.Items.Select(item => Write(item)))}]",
        Mapping map => $"{{{string.Join(", ", map.Items.Select(item => $"{Write(item.Key)}: {Write(item.Value)}"))}}}",
        Undefined => "Undefined",
        _ => throw new JinjaException($"{TypeName(value)} cannot be written as text"),
    };

    private static string Write(double x)
    {
        if (!double.IsFinite(x))
            return double.IsNaN(x) ? "nan" : x > 0 ? "inf" : "-inf";
        return x == Math.Floor(x) && Math.Abs(x) < 1e16
            ? x.ToString("F1", CultureInfo.InvariantCulture)
            : x.ToString("R", CultureInfo.InvariantCulture).Replace('E', 'e');
    }

    /// <summary>A string as it stands in a printed list.</summary>
    private static string Quote(string text)
    {
        char quote = text.Contains('\'') && !text.Contains('"') ? '"' : '\'';
        var quoted = new StringBuilder().Append(quote);
        foreach (char c in text)
        {
            _ = c switch
            {
                '\n' => quoted.Append("\\n"),
                '\r' => quoted.Append("\\r"),
                '\t' => quoted.Append("\\t"),
                '\\' => quoted.Append("\\\\"),
                _ when c == quote => quoted.Append('\\').Append(c),
                < ' ' or '\x7f' => quoted.Append(CultureInfo.InvariantCulture, $"\\x{(int)c:x2}"),
                _ => quoted.Append(c),
            };
        }
        return quoted.Append(quote).ToString();
    }

    public static string TypeName(object? value) => value switch
    {
        null => "none",
        bool => "a Boolean",
        long => "an integer",
        double => "a float",
        JinjaText => "a string",
        Sequence { IsTuple: true } => "a tuple",
        Sequence => "a list",
        Mapping => "a dictionary",
        Undefined undefined => $"{Texts.Shorten(undefined.Description)} (undefined)",
        Namespace => "a namespace",
        LoopState => "a loop",
        _ => "a function",
    };
}
