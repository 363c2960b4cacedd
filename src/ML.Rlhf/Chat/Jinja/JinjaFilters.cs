using System.Collections.Frozen;
using System.Globalization;

namespace ML.Rlhf.Jinja;

/// <summary>What can stand after "|".</summary>
internal static class JinjaFilters
{
    private delegate object? FilterFunction(object? value, JinjaArguments arguments, JinjaBudget budget);

    private static readonly FrozenDictionary<string, FilterFunction> s_filters = new Dictionary<string, FilterFunction>
    {
        ["abs"] = (value, _, budget) => Python.Number(value) < 0 ? JinjaOperators.Arithmetic("-", 0L, value, budget) : value,
        ["attr"] = Method,
        ["capitalize"] = OnText(JinjaMethods.Capitalize),
        ["count"] = (value, _, _) => Length(value),
        ["d"] = Default,
        ["default"] = Default,
        ["dictsort"] = (value, _, budget) => new Sequence(Ordered(Pairs(value, budget).OrderBy(pair => pair.Items[0], s_caseless))),
        ["e"] = OnText(Escape),
        ["escape"] = OnText(Escape),
        ["first"] = (value, _, budget) => JinjaOperators.Iterate(value, budget) is { Count: > 0 } items
            ? items[0]
            : new Undefined("the first item of nothing"),
        ["float"] = (value, arguments, _) => ToFloat(value) ?? (arguments.TryGet(0, "default", out object? other) ? other : 0.0),
        ["format"] = (value, arguments, budget) => JinjaFormat.Percent(Python.AsText(value), arguments.Positional, budget),
        ["indent"] = Indent,
        ["int"] = (value, arguments, _) => ToInteger(value) ?? (arguments.TryGet(0, "default", out object? other) ? other : 0L),
        ["items"] = (value, _, budget) => new Sequence([.. Pairs(value, budget)]),
        ["join"] = Join,
        ["last"] = (value, _, budget) => JinjaOperators.Iterate(value, budget) is { Count: > 0 } items
            ? items[^1]
            : new Undefined("the last item of nothing"),
        ["length"] = (value, _, _) => Length(value),
        ["list"] = (value, _, budget) => new Sequence(JinjaOperators.Iterate(value, budget)),
        ["lower"] = OnText(text => text.Map(text.Value.ToLowerInvariant())),
        ["map"] = Map,
        ["max"] = (value, _, budget) => Extreme(value, 1, budget),
        ["min"] = (value, _, budget) => Extreme(value, -1, budget),
        ["reject"] = (value, arguments, budget) => Select(value, arguments, budget, byAttribute: false, keep: false),
        ["rejectattr"] = (value, arguments, budget) => Select(value, arguments, budget, byAttribute: true, keep: false),
        ["replace"] = (value, arguments, budget) => JinjaMethods.Replace(Python.AsText(value), arguments, budget),
        ["reverse"] = (value, _, _) => JinjaOperators.Slice(value, null, null, -1L),
        ["round"] = Round,
        ["safe"] = OnText(text => text),
        ["select"] = (value, arguments, budget) => Select(value, arguments, budget, byAttribute: false, keep: true),
        ["selectattr"] = (value, arguments, budget) => Select(value, arguments, budget, byAttribute: true, keep: true),
        ["sort"] = Sort,
        ["string"] = OnText(text => text),
        ["sum"] = (value, _, budget) => JinjaOperators.Iterate(value, budget)
            .Aggregate((object?)0L, (sum, item) => JinjaOperators.Arithmetic("+", sum, item, budget)),
        ["title"] = OnText(JinjaMethods.Title),
        ["tojson"] = ToJson,
        ["trim"] = (value, arguments, _) => Python.AsText(value).Trim(arguments.Text(0, "chars")?.Value, start: true, end: true),
        ["unique"] = Unique,
        ["upper"] = OnText(text => text.Map(text.Value.ToUpperInvariant())),
        ["urlencode"] = OnText(text => text.Derive(Uri.EscapeDataString(text.Value))),
        ["wordcount"] = (value, _, _) => (long)JinjaMethods.Split(Python.AsText(value), JinjaArguments.None).Items.Count,
    }.ToFrozenDictionary();

    private static readonly IComparer<object?> s_caseless = Comparer<object?>.Create((a, b) => Python.Compare(Caseless(a), Caseless(b)));

    /// <summary>They look at a list or dictionary, but not into its items.</summary>
    private static readonly FrozenSet<string> s_shallow = new[]
    {
        "attr", "count", "d", "default", "first", "items", "last", "length", "list", "map", "reject", "rejectattr", "reverse", "select",
        "selectattr",
    }.ToFrozenSet();

    public static bool IsKnown(string name) => s_filters.ContainsKey(name);

    public static object? Apply(string name, object? value, JinjaArguments arguments, JinjaBudget budget)
    {
        if (value is JinjaText || !s_shallow.Contains(name))
            budget.SpendOnSearch([value, .. arguments.Positional]);
        return s_filters.TryGetValue(name, out var filter)
            ? filter(value, arguments, budget)
            : throw new JinjaException($"the filter '{Texts.Shorten(name)}' is not supported");
    }

    private static object Method(object? value, JinjaArguments arguments, JinjaBudget budget)
    {
        string name = Python.AsText(arguments.Get(0, "name")).Value;
        return (object?)JinjaMethods.Find(value, name, budget) ?? new Undefined($"'{name}'");
    }

    private static FilterFunction OnText(Func<JinjaText, JinjaText> change) => (value, _, _) => change(Python.AsText(value));

    private static object? Default(object? value, JinjaArguments arguments, JinjaBudget budget) =>
        value is Undefined || arguments.Flag(1, "boolean") && !Python.IsTrue(value)
            ? arguments.TryGet(0, "default_value", out object? other) ? other : JinjaText.Empty
            : value;

    public static long Length(object? value) => value switch
    {
        JinjaText text => text.CodePointStarts().Length - 1,
        Sequence list => list.Items.Count,
        Mapping map => map.Items.Count,
        Undefined => 0,
        _ => throw new JinjaException($"{Python.TypeName(value)} has no length"),
    };

    private static Sequence[] Pairs(object? value, JinjaBudget budget)
    {
        if (value is Undefined)
            return [];
        if (value is not Mapping map)
            throw new JinjaException($"{Python.TypeName(value)} is no dictionary");
        budget.Spend(map.Items.Count);
        return [.. map.Items.Select(pair => new Sequence([pair.Key, pair.Value], IsTuple: true))];
    }

    private static JinjaText Escape(JinjaText text) => text.Derive(text.Value
        .Replace("&", "&amp;", StringComparison.Ordinal).Replace("<", "&lt;", StringComparison.Ordinal)
        .Replace(">", "&gt;", StringComparison.Ordinal).Replace("'", "&#39;", StringComparison.Ordinal)
        .Replace("\"", "&#34;", StringComparison.Ordinal));

    private static object Indent(object? value, JinjaArguments arguments, JinjaBudget budget)
    {
        var margin = arguments.TryGet(0, "width", out object? width) && width is JinjaText text
            ? text
            : new JinjaText(new string(' ', (int)Math.Clamp(arguments.Integer(0, "width", 4), 0, 1000)));
        bool first = arguments.Flag(1, "first"), blank = arguments.Flag(2, "blank");
        var result = new JinjaTextBuilder();
        var lines = JinjaMethods.Split(Python.AsText(value), "\n", -1);
        for (int i = 0; i < lines.Count; i++)
        {
            if (i > 0)
                result.Append(new JinjaText("\n"));
            if ((i > 0 || first) && (blank || lines[i].Value.Length > 0))
                result.Append(margin);
            budget.Spend(margin.Value.Length);
            result.Append(lines[i]);
        }
        return result.ToText();
    }

    private static object Join(object? value, JinjaArguments arguments, JinjaBudget budget)
    {
        var separator = arguments.Text(0, "d") ?? JinjaText.Empty;
        var items = JinjaOperators.Iterate(value, budget);
        if (arguments.TryGet(1, "attribute", out object? attribute))
            items = [.. items.Select(item => Attribute(item, attribute))];
        return Join(separator, items, budget);
    }

    public static JinjaText Join(JinjaText separator, IEnumerable<object?> items, JinjaBudget budget)
    {
        var result = new JinjaTextBuilder();
        bool first = true;
        foreach (object? item in items)
        {
            if (!first)
                result.Append(separator);
            first = false;
            var text = Python.AsText(item);
            budget.Spend(separator.Value.Length + text.Value.Length);
            result.Append(text);
        }
        return result.ToText();
    }

    private static object Map(object? value, JinjaArguments arguments, JinjaBudget budget)
    {
        var items = JinjaOperators.Iterate(value, budget);
        if (arguments.Named.TryGetValue("attribute", out object? attribute))
        {
            bool hasDefault = arguments.Named.TryGetValue("default", out object? otherwise);
            return new Sequence([.. items.Select(item => Attribute(item, attribute) is var found && found is Undefined && hasDefault
                ? otherwise
                : found)]);
        }
        string filter = Python.AsText(arguments.Get(0, "filter")).Value;
        var rest = arguments with { Positional = [.. arguments.Positional.Skip(1)] };
        return new Sequence([.. items.Select(item => Apply(filter, item, rest, budget))]);
    }

    private static object Select(object? value, JinjaArguments arguments, JinjaBudget budget, bool byAttribute, bool keep)
    {
        var rest = arguments.Positional.ToList();
        object? attribute = null;
        if (byAttribute)
        {
            attribute = arguments.Get(0, "attribute");
            rest = [.. rest.Skip(1)]; // it may have been given by name
        }
        string? test = rest.Count > 0 ? Python.AsText(rest[0]).Value : null;
        var testArguments = new JinjaArguments([.. rest.Skip(1)], arguments.Named);
        return new Sequence([.. JinjaOperators.Iterate(value, budget).Where(item =>
        {
            object? subject = byAttribute ? Attribute(item, attribute) : item;
            return keep == (test is null ? Python.IsTrue(subject) : JinjaTests.Apply(test, subject, testArguments, budget));
        })]);
    }

    /// <summary>An attribute by its path: <c>function.name</c>.</summary>
    private static object? Attribute(object? item, object? path)
    {
        if (path is not JinjaText text)
            return JinjaOperators.Item(item, path);
        foreach (string name in text.Value.Split('.'))
        {
            object key = long.TryParse(name, NumberStyles.None, CultureInfo.InvariantCulture, out long index) ? index : new JinjaText(name);
            item = JinjaOperators.Item(item, key);
        }
        return item;
    }

    private static object? Extreme(object? value, int sign, JinjaBudget budget)
    {
        var items = JinjaOperators.Iterate(value, budget);
        return items.Count == 0
            ? new Undefined("the extreme item of nothing")
            : items.Aggregate((best, item) => sign * s_caseless.Compare(item, best) > 0 ? item : best);
    }

    private static object Sort(object? value, JinjaArguments arguments, JinjaBudget budget)
    {
        bool caseSensitive = arguments.Flag(1, "case_sensitive");
        bool byAttribute = arguments.TryGet(2, "attribute", out object? attribute);
        var comparer = caseSensitive ? Comparer<object?>.Create(Python.Compare) : s_caseless;
        var items = JinjaOperators.Iterate(value, budget);
        budget.Spend(Python.Weight(value) * Math.Log2(items.Count + 1));
        return new Sequence(
            Ordered(arguments.Flag(0, "reverse") ? items.OrderByDescending(Key, comparer) : items.OrderBy(Key, comparer)));

        object? Key(object? item) => byAttribute ? Attribute(item, attribute) : item;
    }

    /// <summary>The items in their order; .NET wraps what it throws when two have none.</summary>
    private static object?[] Ordered(IEnumerable<object?> sorting)
    {
        try
        {
            return [.. sorting];
        }
        catch (InvalidOperationException e) when (e.InnerException is JinjaException cause)
        {
            throw new JinjaException(cause.Message);
        }
    }

    private static object? Caseless(object? value) => value is JinjaText text ? new JinjaText(text.Value.ToLowerInvariant()) : value;

    private static object Unique(object? value, JinjaArguments arguments, JinjaBudget budget)
    {
        var unique = new List<object?>();
        foreach (object? item in JinjaOperators.Iterate(value, budget))
        {
            budget.Spend(unique.Count * Python.Weight(item));
            if (!unique.Any(other => Python.AreEqual(Caseless(other), Caseless(item))))
                unique.Add(item);
        }
        return new Sequence(unique);
    }

    private static object Round(object? value, JinjaArguments arguments, JinjaBudget budget)
    {
        if (Python.Number(value) is not { } x)
            throw new JinjaException($"{Python.TypeName(value)} cannot be rounded");
        int digits = (int)Math.Clamp(arguments.Integer(0, "precision", 0), 0, 15);
        double scale = Math.Pow(10, digits);
        return (arguments.Text(1, "method")?.Value ?? "common") switch
        {
            "ceil" => Math.Ceiling(x * scale) / scale,
            "floor" => Math.Floor(x * scale) / scale,
            _ => Math.Round(x, digits, MidpointRounding.ToEven),
        };
    }

    private static object? ToFloat(object? value) => value is JinjaText text
        ? double.TryParse(text.Value, NumberStyles.Float, CultureInfo.InvariantCulture, out double x) ? x : null
        : Python.Number(value);

    private static object? ToInteger(object? value) => value is JinjaText text
        && long.TryParse(text.Value, NumberStyles.Integer, CultureInfo.InvariantCulture, out long n)
            ? n
            : ToFloat(value) is double x && Math.Abs(x) < 9e18 ? (long)x : null;

    private static object ToJson(object? value, JinjaArguments arguments, JinjaBudget budget)
    {
        long? indent = arguments.TryGet(1, "indent", out object? width) && width is not null ? Python.AsInteger(width, "indent") : null;
        var separators = arguments.Named.TryGetValue("separators", out object? given) && given is Sequence { Items.Count: 2 } pair
            ? (Python.AsText(pair.Items[0]).Value, Python.AsText(pair.Items[1]).Value)
            : (indent is null ? ", " : ",", ": ");
        string json = JinjaFormat.Json(value, indent is { } n ? (int)Math.Clamp(n, 0, 16) : null, arguments.Flag(0, "ensure_ascii"),
            arguments.Flag(3, "sort_keys"), separators);
        budget.Spend(json.Length);
        return JinjaText.From(json, Python.Contains(value));
    }
}
