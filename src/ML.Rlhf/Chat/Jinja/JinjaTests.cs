using System.Collections.Frozen;

namespace ML.Rlhf.Jinja;

/// <summary>What can stand after <c>is</c>, and be asked for by name in <c>select</c>.</summary>
internal static class JinjaTests
{
    private static readonly FrozenDictionary<string, Func<object?, JinjaArguments, bool>> s_tests =
        new Dictionary<string, Func<object?, JinjaArguments, bool>>
        {
            ["defined"] = (value, _) => value is not Undefined,
            ["undefined"] = (value, _) => value is Undefined,
            ["none"] = (value, _) => value is null,
            ["boolean"] = (value, _) => value is bool,
            ["true"] = (value, _) => value is true,
            ["false"] = (value, _) => value is false,
            ["integer"] = (value, _) => value is long,
            ["float"] = (value, _) => value is double,
            ["number"] = (value, _) => value is bool or long or double,
            ["string"] = (value, _) => value is JinjaText,
            ["mapping"] = (value, _) => value is Mapping,
            ["sequence"] = (value, _) => value is JinjaText or Sequence or Mapping,
            ["iterable"] = (value, _) => value is JinjaText or Sequence or Mapping or Undefined,
            ["callable"] = (value, _) => value is Callable,
            ["odd"] = (value, _) => Integer(value) % 2 != 0,
            ["even"] = (value, _) => Integer(value) % 2 == 0,
            ["divisibleby"] = (value, arguments) => Integer(arguments.Get(0, "num")) is not 0 and var divisor
                ? Integer(value) % divisor == 0
                : throw new JinjaException("division by zero"),
            ["lower"] = (value, _) => Python.AsText(value).Value is var text && text == text.ToLowerInvariant() && text.Any(char.IsLetter),
            ["upper"] = (value, _) => Python.AsText(value).Value is var text && text == text.ToUpperInvariant() && text.Any(char.IsLetter),
            ["sameas"] = (value, arguments) => arguments.Get(0, "other") is var other
                && value?.GetType() == other?.GetType() && Python.AreEqual(value, other),
            ["in"] = (value, arguments) => JinjaOperators.Contains(arguments.Get(0, "seq"), value),
            ["eq"] = IsEqual,
            ["equalto"] = IsEqual,
            ["=="] = IsEqual,
            ["ne"] = (value, arguments) => !IsEqual(value, arguments),
            ["!="] = (value, arguments) => !IsEqual(value, arguments),
            ["lt"] = (value, arguments) => Compare(value, arguments) < 0,
            ["lessthan"] = (value, arguments) => Compare(value, arguments) < 0,
            ["<"] = (value, arguments) => Compare(value, arguments) < 0,
            ["le"] = (value, arguments) => Compare(value, arguments) <= 0,
            ["<="] = (value, arguments) => Compare(value, arguments) <= 0,
            ["gt"] = (value, arguments) => Compare(value, arguments) > 0,
            ["greaterthan"] = (value, arguments) => Compare(value, arguments) > 0,
            [">"] = (value, arguments) => Compare(value, arguments) > 0,
            ["ge"] = (value, arguments) => Compare(value, arguments) >= 0,
            [">="] = (value, arguments) => Compare(value, arguments) >= 0,
        }.ToFrozenDictionary();

    public static bool IsKnown(string name) => s_tests.ContainsKey(name);

    public static bool Apply(string name, object? value, JinjaArguments arguments, JinjaBudget budget)
    {
        if (arguments.Positional.Count > 0) // those without only look at the value's kind
            budget.SpendOnSearch([value, .. arguments.Positional]);
        return s_tests.TryGetValue(name, out var test)
            ? test(value, arguments)
            : throw new JinjaException($"the test '{Texts.Shorten(name)}' is not supported");
    }

    private static bool IsEqual(object? value, JinjaArguments arguments) => Python.AreEqual(value, arguments.Get(0, "other"));

    private static int Compare(object? value, JinjaArguments arguments) => Python.Compare(value, arguments.Get(0, "other"));

    private static long Integer(object? value) => Python.AsInteger(value, "value");
}
