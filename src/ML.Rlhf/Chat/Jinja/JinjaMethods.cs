using System.Globalization;

namespace ML.Rlhf.Jinja;

/// <summary>The methods of strings, lists and dictionaries that templates call. None of them changes what it is called on.</summary>
internal static class JinjaMethods
{
    /// <summary>A method of a value, bound to it; null where it has none of that name.</summary>
    public static Callable? Find(object? target, string name, JinjaBudget budget)
    {
        Func<JinjaArguments, object?>? method = target switch
        {
            JinjaText text => OfText(text, name, budget),
            Mapping items => OfMapping(items, name, budget),
            Sequence list => OfSequence(list, name),
            _ => null,
        };
        return method is null ? null : new Callable(arguments =>
        {
            if (target is Mapping map)
            {
                budget.Spend(map.Items.Count);
                budget.SpendOn([.. arguments.Positional]);
            }
            else
                budget.SpendOnSearch([target, .. arguments.Positional]);
            return method(arguments);
        });
    }

    private static Func<JinjaArguments, object?>? OfText(JinjaText text, string name, JinjaBudget budget) => name switch
    {
        "strip" => arguments => text.Trim(arguments.Text(0, "chars")?.Value, start: true, end: true),
        "lstrip" => arguments => text.Trim(arguments.Text(0, "chars")?.Value, start: true, end: false),
        "rstrip" => arguments => text.Trim(arguments.Text(0, "chars")?.Value, start: false, end: true),
        "split" => arguments => Split(text, arguments),
        "rsplit" => arguments => SplitFromEnd(text, arguments),
        "splitlines" => _ => new Sequence([.. Split(text, "\n", -1) is [.. var lines, { Value: "" }] ? lines : Split(text, "\n", -1)]),
        "partition" => arguments => Partition(text, Required(arguments, "sep")),
        "startswith" => arguments => IsAny(arguments, part => text.Value.StartsWith(part, StringComparison.Ordinal)),
        "endswith" => arguments => IsAny(arguments, part => text.Value.EndsWith(part, StringComparison.Ordinal)),
        "removeprefix" => arguments => Required(arguments, "prefix").Value is var part
            && text.Value.StartsWith(part, StringComparison.Ordinal) ? text.Slice(part.Length, text.Value.Length - part.Length) : text,
        "removesuffix" => arguments => Required(arguments, "suffix").Value is var part
            && text.Value.EndsWith(part, StringComparison.Ordinal) ? text.Slice(0, text.Value.Length - part.Length) : text,
        "replace" => arguments => Replace(text, arguments, budget),
        "upper" => _ => text.Map(text.Value.ToUpperInvariant()),
        "lower" => _ => text.Map(text.Value.ToLowerInvariant()),
        "title" => _ => Title(text),
        "capitalize" => _ => Capitalize(text),
        "find" => arguments => (long)CodePoints(text, text.Value.IndexOf(Required(arguments, "sub").Value, StringComparison.Ordinal)),
        "count" => arguments => (long)Split(text, NotEmpty(Required(arguments, "sub").Value), -1).Count - 1,
        "join" => arguments => JinjaFilters.Join(text, JinjaOperators.Iterate(arguments.Get(0, "iterable"), budget), budget),
        "format" => arguments => JinjaFormat.Braces(text, arguments, budget),
        "isdigit" => _ => text.Value.Length > 0 && text.Value.All(char.IsDigit),
        "isalpha" => _ => text.Value.Length > 0 && text.Value.All(char.IsLetter),
        "isalnum" => _ => text.Value.Length > 0 && text.Value.All(char.IsLetterOrDigit),
        "isspace" => _ => text.Value.Length > 0 && text.Value.All(JinjaText.IsSpace),
        "isupper" => _ => JinjaTests.Apply("upper", text, JinjaArguments.None, budget),
        "islower" => _ => JinjaTests.Apply("lower", text, JinjaArguments.None, budget),
        _ => null,
    };

    private static Func<JinjaArguments, object?>? OfMapping(Mapping map, string name, JinjaBudget budget) => name switch
    {
        "items" => _ => JinjaFilters.Apply("items", map, JinjaArguments.None, budget),
        "keys" => _ => new Sequence([.. map.Items.Keys]),
        "values" => _ => new Sequence([.. map.Items.Values]),
        "get" => arguments => arguments.Get(0, "key") is { } key && map.Items.TryGetValue(key, out object? value)
            ? value
            : arguments.TryGet(1, "default", out object? otherwise) ? otherwise : null,
        _ => null,
    };

    private static Func<JinjaArguments, object?>? OfSequence(Sequence list, string name) => name switch
    {
        "count" => arguments => (long)list.Items.Count(item => Python.AreEqual(item, arguments.Get(0, "value"))),
        "index" => arguments => Enumerable.Range(0, list.Items.Count)
            .Where(i => Python.AreEqual(list.Items[i], arguments.Get(0, "value"))).Select(i => (long?)i).FirstOrDefault()
            ?? throw new JinjaException("the list has no such item"),
        "append" or "extend" or "insert" or "pop" or "remove" or "clear" => _ => throw new JinjaException(
            $"'{name}' would change a list, which templates may not do; 'list + [item]' makes another one"),
        _ => null,
    };

    public static Sequence Split(JinjaText text, JinjaArguments arguments)
    {
        int limit = Limit(arguments);
        return new Sequence(arguments.Text(0, "sep") is { } separator
            ? [.. Split(text, NotEmpty(separator.Value), limit)]
            : [.. Words(text, limit)]);
    }

    /// <param name="text">The text.</param>
    /// <param name="separator">Not empty.</param>
    /// <param name="limit">The most cuts; below 0 for all.</param>
    public static List<JinjaText> Split(JinjaText text, string separator, int limit)
    {
        var parts = new List<JinjaText>();
        int start = 0;
        for (int i; parts.Count != limit && (i = text.Value.IndexOf(separator, start, StringComparison.Ordinal)) >= 0;
            start = i + separator.Length)
            parts.Add(text.Slice(start, i - start));
        parts.Add(text.Slice(start, text.Value.Length - start));
        return parts;
    }

    private static Sequence SplitFromEnd(JinjaText text, JinjaArguments arguments)
    {
        int limit = Limit(arguments);
        string separator = NotEmpty((arguments.Text(0, "sep") ?? throw new JinjaException("'rsplit' needs a separator")).Value);
        var parts = new List<object?>();
        int end = text.Value.Length;
        for (int i; parts.Count != limit && end > 0
            && (i = text.Value.LastIndexOf(separator, end - 1, StringComparison.Ordinal)) >= 0; end = i)
            parts.Add(text.Slice(i + separator.Length, end - i - separator.Length));
        parts.Add(text.Slice(0, end));
        parts.Reverse();
        return new Sequence(parts);
    }

    private static List<JinjaText> Words(JinjaText text, int limit)
    {
        var words = new List<JinjaText>();
        var rest = text.Trim(null, start: true, end: limit < 0);
        while (rest.Value.Length > 0)
        {
            int end = 0;
            while (end < rest.Value.Length && (words.Count == limit || !JinjaText.IsSpace(rest.Value[end])))
                end++;
            words.Add(rest.Slice(0, end));
            rest = rest.Slice(end, rest.Value.Length - end).Trim(null, start: true, end: false);
        }
        return words;
    }

    private static Sequence Partition(JinjaText text, JinjaText separator)
    {
        int i = text.Value.IndexOf(NotEmpty(separator.Value), StringComparison.Ordinal);
        if (i < 0)
            return new Sequence([text, JinjaText.Empty, JinjaText.Empty], IsTuple: true);
        int end = i + separator.Value.Length;
        return new Sequence([text.Slice(0, i), text.Slice(i, end - i), text.Slice(end, text.Value.Length - end)], IsTuple: true);
    }

    public static JinjaText Replace(JinjaText text, JinjaArguments arguments, JinjaBudget budget)
    {
        var old = Python.AsText(arguments.Get(0, "old"));
        var with = Python.AsText(arguments.Get(1, "new"));
        var parts = Split(text, NotEmpty(old.Value), (int)Math.Clamp(arguments.Integer(2, "count", -1), -1, int.MaxValue));
        budget.Spend((double)parts.Count * with.Value.Length);
        var result = new JinjaTextBuilder();
        for (int i = 0; i < parts.Count; i++)
        {
            if (i > 0)
                result.Append(with);
            result.Append(parts[i]);
        }
        return result.ToText();
    }

    /// <summary>Each word with one capital, as Python's <c>title</c> has it.</summary>
    public static JinjaText Title(JinjaText text)
    {
        char[] result = text.Value.ToLowerInvariant().ToCharArray();
        for (int i = 0; i < result.Length; i++)
        {
            if (i == 0 || !char.IsLetter(result[i - 1]))
                result[i] = char.ToUpperInvariant(result[i]);
        }
        return text.Map(new string(result));
    }

    public static JinjaText Capitalize(JinjaText text) => text.Value.Length == 0
        ? text
        : text.Map(text.Value[..1].ToUpperInvariant() + text.Value[1..].ToLowerInvariant());

    private static bool IsAny(JinjaArguments arguments, Predicate<string> test) => arguments.Get(0, "prefix") switch
    {
        Sequence { IsTuple: true } parts => parts.Items.Any(part => test(Python.AsText(part).Value)),
        JinjaText part => test(part.Value),
        var other => throw new JinjaException($"a string can only begin or end with a string, not {Python.TypeName(other)}"),
    };

    private static JinjaText Required(JinjaArguments arguments, string name) => arguments.Get(0, name) as JinjaText
        ?? throw new JinjaException($"the argument '{name}' must be a string");

    private static int Limit(JinjaArguments arguments) => (int)Math.Clamp(arguments.Integer(1, "maxsplit", -1), -1, int.MaxValue);

    private static string NotEmpty(string separator) =>
        separator.Length > 0 ? separator : throw new JinjaException("the separator is empty");

    private static int CodePoints(JinjaText text, int index) => index <= 0 ? index : text.Slice(0, index).CodePointStarts().Length - 1;
}
