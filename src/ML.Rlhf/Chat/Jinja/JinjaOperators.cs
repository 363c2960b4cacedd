using System.Globalization;

namespace ML.Rlhf.Jinja;

/// <summary>Arithmetic, membership, subscripts and iteration, with Python's meanings.</summary>
internal static class JinjaOperators
{
    public static object? Arithmetic(string symbol, object? left, object? right, JinjaBudget budget)
    {
        if (Python.Integer(left) is { } m && Python.Integer(right) is { } n)
            return Integers(symbol, m, n);
        if (Python.Number(left) is { } x && Python.Number(right) is { } y)
            return Reals(symbol, x, y);
        switch (symbol, left, right)
        {
            case ("+", JinjaText s, JinjaText t):
                budget.SpendOn(s, t);
                return JinjaText.Concat(s, t);
            case ("+", Sequence s, Sequence t) when s.IsTuple == t.IsTuple:
                budget.Spend(s.Items.Count + t.Items.Count);
                return new Sequence([.. s.Items, .. t.Items], s.IsTuple);
            case ("*", JinjaText text, _) when Python.Integer(right) is { } count:
                return JinjaText.Concat([.. Repeat(text, text.Value.Length, count)]);
            case ("*", Sequence list, _) when Python.Integer(right) is { } count:
                return new Sequence([.. Repeat(list, list.Items.Count, count).SelectMany(copy => copy.Items)], list.IsTuple);
            case ("%", JinjaText format, _):
                return JinjaFormat.Percent(format, right is Sequence { IsTuple: true } values ? values.Items : [right], budget);
        }
        throw (left as Undefined ?? right as Undefined)?.Error()
            ?? new JinjaException($"'{symbol}' has no meaning between {Python.TypeName(left)} and {Python.TypeName(right)}");

        IEnumerable<T> Repeat<T>(T value, int length, long count)
        {
            count = Math.Max(0, count);
            budget.Spend(count * (1.0 + length));
            return Enumerable.Repeat(value, (int)count);
        }
    }

    private static object Integers(string symbol, long m, long n)
    {
        try
        {
            return symbol switch
            {
                "+" => (object)checked(m + n), // an object, so that integers and floats stay apart
                "-" => checked(m - n),
                "*" => checked(m * n),
                "/" => n == 0 ? throw DivisionByZero() : m / (double)n,
                "//" => n == 0 ? throw DivisionByZero() : checked(m / n) - (m % n != 0 && m < 0 != n < 0 ? 1 : 0),
                "%" => n == 0 ? throw DivisionByZero() : n == -1 ? 0L : m % n + (m % n != 0 && m < 0 != n < 0 ? n : 0),
                _ when n < 0 => Math.Pow(m, n),
                _ => Power(m, n),
            };
        }
        catch (OverflowException)
        {
            throw new JinjaException($"{m} {symbol} {n} is too large");
        }
    }

    private static long Power(long number, long exponent)
    {
        if (number is 0 or 1 or -1)
            return exponent == 0 ? 1 : number == -1 && exponent % 2 == 0 ? 1 : number;
        long power = 1;
        for (long i = 0; i < exponent; i++) // overflows after at most 63 steps
            power = checked(power * number);
        return power;
    }

    private static double Reals(string symbol, double x, double y) => symbol switch
    {
        "+" => x + y,
        "-" => x - y,
        "*" => x * y,
        "**" => Math.Pow(x, y),
        _ when y == 0 => throw DivisionByZero(),
        "/" => x / y,
        "//" => Math.Floor(x / y),
        _ => x - y * Math.Floor(x / y),
    };

    private static JinjaException DivisionByZero() => new("division by zero");

    /// <summary>Whether <c>item in container</c>.</summary>
    public static bool Contains(object? container, object? item) => container switch
    {
        JinjaText text => item is JinjaText part
            ? text.Value.Contains(part.Value, StringComparison.Ordinal)
            : throw new JinjaException($"'in' a string needs a string before it, not {Python.TypeName(item)}"),
        Sequence list => list.Items.Any(other => Python.AreEqual(other, item)),
        Mapping map => item is not null && map.Items.ContainsKey(item),
        Undefined => false,
        _ => throw new JinjaException($"'in' needs a string, a list or a dictionary after it, not {Python.TypeName(container)}"),
    };

    public static object? Item(object? target, object? key) => (target, key) switch
    {
        (Undefined undefined, _) => throw undefined.Error(),
        (Mapping map, not null) => map.Items.TryGetValue(key, out object? value) ? value : Missing(key),
        (Sequence list, _) when Python.Integer(key) is { } index =>
            Place(index, list.Items.Count) is { } place ? list.Items[place] : Missing(key),
        (JinjaText text, _) when Python.Integer(key) is { } index => CodePoint(text, index) ?? (object)Missing(key),
        (Namespace space, JinjaText name) => space.Attributes.TryGetValue(name.Value, out object? value) ? value : Missing(key),
        _ => Missing(key),
    };

    private static Undefined Missing(object? key) => new(
        key is JinjaText name ? $"'{Texts.Shorten(name.Value)}'"
        : key is long or double or bool ? string.Create(CultureInfo.InvariantCulture, $"item {key}")
        : $"an item by {Python.TypeName(key)}");

    private static int? Place(long index, int count)
    {
        long place = index < 0 ? index + count : index;
        return place >= 0 && place < count ? (int)place : null;
    }

    private static JinjaText? CodePoint(JinjaText text, long index)
    {
        int[] starts = text.CodePointStarts();
        return Place(index, starts.Length - 1) is { } place ? text.Slice(starts[place], starts[place + 1] - starts[place]) : null;
    }

    public static object Slice(object? target, object? start, object? stop, object? step)
    {
        long by = step is null ? 1 : Python.AsInteger(step, "step");
        if (by == 0)
            throw new JinjaException("a slice cannot have step 0");
        switch (target)
        {
            case Sequence list:
                return new Sequence([.. Places(start, stop, by, list.Items.Count).Select(place => list.Items[place])], list.IsTuple);
            case JinjaText text:
                int[] starts = text.CodePointStarts();
                int count = starts.Length - 1;
                var places = Places(start, stop, by, count);
                if (by == 1)
                    return places.Count == 0 ? JinjaText.Empty : text.Slice(starts[places[0]], starts[places[^1] + 1] - starts[places[0]]);
                return JinjaText.Concat([.. places.Select(place => text.Slice(starts[place], starts[place + 1] - starts[place]))]);
            default:
                throw (target as Undefined)?.Error() ?? new JinjaException($"{Python.TypeName(target)} cannot be sliced");
        }
    }

    private static List<int> Places(object? start, object? stop, long step, int count)
    {
        long from = Bound(start, step > 0 ? 0 : count - 1), to = Bound(stop, step > 0 ? count : -1);
        var places = new List<int>();
        for (long i = from; step > 0 ? i < to : i > to; i = SaturatingAdd(i, step))
            places.Add((int)i);
        return places;

        long Bound(object? bound, long otherwise)
        {
            if (bound is null)
                return otherwise;
            long place = Python.AsInteger(bound, "a slice's bound");
            return Math.Clamp(place < 0 ? SaturatingAdd(place, count) : place, step > 0 ? 0 : -1, step > 0 ? count : count - 1);
        }

        static long SaturatingAdd(long a, long b) => long.CreateSaturating((Int128)a + b);
    }

    /// <summary>The items that a loop goes through.</summary>
    public static IReadOnlyList<object?> Iterate(object? value, JinjaBudget budget)
    {
        IReadOnlyList<object?> items = value switch
        {
            Sequence list => list.Items,
            Mapping map => [.. map.Items.Keys],
            JinjaText text => Characters(text),
            Undefined => [],
            _ => throw new JinjaException($"{Python.TypeName(value)} has no items to go through"),
        };
        budget.Spend(items.Count);
        return items;
    }

    private static List<object?> Characters(JinjaText text)
    {
        int[] starts = text.CodePointStarts();
        return [.. Enumerable.Range(0, starts.Length - 1).Select(i => text.Slice(starts[i], starts[i + 1] - starts[i]))];
    }
}
