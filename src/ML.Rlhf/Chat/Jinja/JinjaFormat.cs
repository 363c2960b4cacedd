using System.Globalization;
using System.Text;

namespace ML.Rlhf.Jinja;

/// <summary>What templates format with: "%s" of Python, "{}" of Python, and JSON.</summary>
internal static class JinjaFormat
{
    /// <summary><c>format % values</c> with %s, %d, %f and %%.</summary>
    public static JinjaText Percent(JinjaText format, IReadOnlyList<object?> values, JinjaBudget budget)
    {
        var result = new JinjaTextBuilder();
        int start = 0, next = 0;
        for (int i; (i = format.Value.IndexOf('%', start)) >= 0; start = i + 2)
        {
            result.Append(format.Slice(start, i - start));
            char kind = i + 1 < format.Value.Length ? format.Value[i + 1] : '\0';
            var part = kind == '%' ? format.Slice(i, 1) : Insert(kind);
            budget.Spend(part.Value.Length);
            result.Append(part);
        }
        result.Append(format.Slice(start, format.Value.Length - start));
        return result.ToText();

        JinjaText Insert(char kind)
        {
            object? value = next < values.Count ? values[next++] : throw new JinjaException("the format has more places than values");
            return kind switch
            {
                's' => Python.AsText(value),
                'd' when Python.Number(value) is { } x => Python.AsText((long)x),
                'f' when Python.Number(value) is { } x => new JinjaText(x.ToString("F6", CultureInfo.InvariantCulture)),
                _ => throw new JinjaException($"the format '%{kind}' is not supported for {Python.TypeName(value)}"),
            };
        }
    }

    /// <summary><c>"{} {0} {name}".format(…)</c> without format specifications.</summary>
    public static JinjaText Braces(JinjaText format, JinjaArguments arguments, JinjaBudget budget)
    {
        var result = new JinjaTextBuilder();
        int next = 0;
        string text = format.Value;
        for (int i = 0; i < text.Length; i++)
        {
            if (text[i] is '{' or '}' && i + 1 < text.Length && text[i + 1] == text[i])
                result.Append(format.Slice(i++, 1));
            else if (text[i] == '{' && text.IndexOf('}', i) is > 0 and var end)
            {
                var part = Python.AsText(Value(text[(i + 1)..end]));
                budget.Spend(part.Value.Length);
                result.Append(part);
                i = end;
            }
            else
                result.Append(format.Slice(i, 1));
        }
        return result.ToText();

        object? Value(string field)
        {
            if (field.Length == 0 || field.All(char.IsAsciiDigit))
            {
                int index = field.Length == 0 ? next++
                    : int.TryParse(field, NumberStyles.None, CultureInfo.InvariantCulture, out int number) ? number
                    : int.MaxValue;
                return index < arguments.Positional.Count ? arguments.Positional[index] : throw NoValue(field);
            }
            return arguments.Named.TryGetValue(field, out object? value) ? value : throw NoValue(field);
        }

        static JinjaException NoValue(string field) => new($"the format has a place '{{{Texts.Shorten(field)}}}' without a value");
    }

    /// <summary>JSON as Python's <c>json.dumps</c> writes it, which is what transformers renders tools with.</summary>
    /// <param name="value">What to write.</param>
    /// <param name="indent">Blanks for each level; null for one line.</param>
    /// <param name="asciiOnly">Whether other characters are escaped.</param>
    /// <param name="sortKeys">Whether keys are written in order.</param>
    /// <param name="separators">Between items, and after keys.</param>
    public static string Json(object? value, int? indent, bool asciiOnly, bool sortKeys, (string Item, string Key) separators)
    {
        var json = new StringBuilder();
        WriteValue(value, 0);
        return json.ToString();

        void WriteValue(object? item, int depth)
        {
            switch (item)
            {
                case null:
                    json.Append("null");
                    break;
                case bool b:
                    json.Append(b ? "true" : "false");
                    break;
                case JinjaText text:
                    WriteString(json, text.Value, asciiOnly);
                    break;
                case long or double:
                    json.Append(Python.AsText(item).Value);
                    break;
                case Sequence list:
                    WriteItems('[', ']', list.Items, depth, WriteValue);
                    break;
                case Mapping map:
                    var pairs = sortKeys ? map.Items.OrderBy(pair => Key(pair.Key), StringComparer.Ordinal) : map.Items.AsEnumerable();
                    WriteItems('{', '}', [.. pairs], depth, (pair, inner) =>
                    {
                        WriteString(json, Key(pair.Key), asciiOnly);
                        json.Append(separators.Key);
                        WriteValue(pair.Value, inner);
                    });
                    break;
                default:
                    throw (item as Undefined)?.Error() ?? new JinjaException($"{Python.TypeName(item)} cannot be written as JSON");
            }
        }

        void WriteItems<T>(char open, char close, IReadOnlyList<T> items, int depth, Action<T, int> write)
        {
            json.Append(open);
            for (int i = 0; i < items.Count; i++)
            {
                json.Append(i == 0 ? "" : separators.Item);
                NewLine(depth + 1);
                write(items[i], depth + 1);
            }
            if (items.Count > 0)
                NewLine(depth);
            json.Append(close);
        }

        void NewLine(int depth)
        {
            if (indent is { } width)
                json.Append('\n').Append(' ', width * depth);
        }

        static string Key(object key) => key is bool b ? (b ? "true" : "false") : Python.AsText(key).Value;
    }

    private static void WriteString(StringBuilder json, string text, bool asciiOnly)
    {
        json.Append('"');
        foreach (char c in text)
        {
            _ = c switch
            {
                '"' => json.Append("\\\""),
                '\\' => json.Append("\\\\"),
                '\n' => json.Append("\\n"),
                '\r' => json.Append("\\r"),
                '\t' => json.Append("\\t"),
                '\b' => json.Append("\\b"),
                '\f' => json.Append("\\f"),
                _ when c < ' ' || asciiOnly && c > '~' => json.Append(CultureInfo.InvariantCulture, $"\\u{(int)c:x4}"),
                _ => json.Append(c),
            };
        }
        json.Append('"');
    }

    /// <summary>A date in the codes of C's <c>strftime</c>, in English.</summary>
    public static string Date(string format, DateTimeOffset now)
    {
        var result = new StringBuilder();
        for (int i = 0; i < format.Length; i++)
        {
            if (format[i] != '%' || i + 1 == format.Length)
                result.Append(format[i]);
            else
                result.Append(format[++i] switch
                {
                    'Y' => Part("yyyy"),
                    'y' => Part("yy"),
                    'm' => Part("MM"),
                    'd' => Part("dd"),
                    'b' => Part("MMM"),
                    'B' => Part("MMMM"),
                    'a' => Part("ddd"),
                    'A' => Part("dddd"),
                    'H' => Part("HH"),
                    'I' => Part("hh"),
                    'M' => Part("mm"),
                    'S' => Part("ss"),
                    'p' => Part("tt"),
                    'j' => now.DayOfYear.ToString("D3", CultureInfo.InvariantCulture),
                    'F' => Part("yyyy-MM-dd"),
                    'T' => Part("HH:mm:ss"),
                    '%' => "%",
                    var code => throw new JinjaException($"the date code '%{code}' is not supported"),
                });
        }
        return result.ToString();

        string Part(string part) => now.ToString(part, CultureInfo.InvariantCulture);
    }
}
