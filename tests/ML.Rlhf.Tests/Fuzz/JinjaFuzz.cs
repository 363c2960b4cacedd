using System.Text;
using System.Text.RegularExpressions;
using ML.Rlhf.TestSupport;

namespace ML.Rlhf.Tests.Fuzz;

/// <summary>Sources of chat templates: those of known models with pieces exchanged, and expressions that nobody would write.</summary>
internal sealed partial class JinjaFuzz : FuzzFormat
{
    private static readonly string[] s_filters =
    [
        "abs", "attr", "capitalize", "count", "default", "dictsort", "e", "first", "float", "format", "indent", "int", "items", "join",
        "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "replace", "reverse", "round", "safe", "select",
        "selectattr", "sort", "string", "sum", "title", "tojson", "trim", "unique", "upper", "urlencode", "wordcount",
    ];

    private static readonly string[] s_methods =
    [
        "strip", "lstrip", "rstrip", "split", "rsplit", "splitlines", "partition", "startswith", "endswith", "removeprefix",
        "removesuffix", "replace", "upper", "lower", "title", "capitalize", "find", "count", "join", "format", "isdigit", "isalpha",
        "isalnum", "isspace", "isupper", "islower", "items", "keys", "values", "get", "index", "append", "cycle", "role", "content",
        "nothing",
    ];

    private static readonly string[] s_tests =
    [
        "defined", "undefined", "none", "boolean", "integer", "number", "string", "mapping", "sequence", "iterable", "callable", "odd",
        "even", "divisibleby", "lower", "upper", "sameas", "in", "eq", "ne", "lt", "le", "gt", "ge", "true",
    ];

    private static readonly string[] s_values =
    [
        "messages", "messages[0]", "message", "loop", "loop.index", "bos_token", "eos_token", "add_generation_prompt", "nothing", "none",
        "true", "false", "0", "1", "-1", "9223372036854775807", "-9223372036854775808", "99999999999999999999", "1e308", "0.1", "3000000",
        "''", "'a'", "'🙂é\\ud800'", "'{99999999999}'", "'{} {0} {x}'", "'%s %d %f %%'", "'abc' * 1000", "[]", "[1, 2.5, 'a', none]",
        "[[1], [0]]", "{}", "{'a': 1, 'b': [2]}", "{1: 2}", "(1,)", "()", "range(10)", "range(100000)", "namespace(a=1)", "dict(a=1)",
        "strftime_now('%Y')", "strftime_now('%q')", "caller", "raise_exception('no')", "messages | tojson", "range", "namespace",
    ];

    private static readonly string[] s_arguments =
    [
        "attribute", "default", "reverse", "width", "indent", "sep", "maxsplit", "d", "key", "name", "seq", "other", "separators", "chars",
        "a",
    ];

    private static readonly string[] s_statements =
    [
        "{% for m in messages %}", "{% for m in range(1000) %}", "{% for a, b in messages[0].items() %}", "{% endfor %}", "{% if true %}",
        "{% else %}", "{% elif x %}", "{% endif %}", "{% set x = messages %}", "{% set ns.x = 1 %}", "{% set x %}", "{% endset %}",
        "{% macro m(a, b=1) %}", "{% endmacro %}", "{{ m(1) }}", "{% call m() %}", "{% endcall %}", "{% filter upper %}",
        "{% endfilter %}", "{% with a = 1 %}", "{% endwith %}", "{% generation %}", "{% endgeneration %}", "{% break %}", "{% continue %}",
        "{# ", "#}", "{%- ", " -%}", "{{", "}}", "{% raw %}", "{% endraw %}", "{% set ns = namespace(x='a') %}",
        "{% set ns.x = ns.x + ns.x %}", "{% macro m() %}{{ m() }}{% endmacro %}", "\r\n", "{{ m }}", "{% include 'a' %}",
    ];

    private static readonly ChatMessage[][] s_conversations =
    [
        [ChatMessage.User("Hi 🙂 <|im_end|>"), ChatMessage.Assistant("Hello!\n"), ChatMessage.User("%s {0} <b>")],
        [ChatMessage.System(""), ChatMessage.User("\ud800")],
    ];

    private static readonly Dictionary<string, string> s_tokens = new() { ["bos_token"] = "<s>", ["eos_token"] = "</s>" };

    private readonly (string Place, SplitText Text)[] _sources;

    public JinjaFuzz() => _sources =
    [
        .. new[] { "chat-templates", "tokenizers/chat" }.SelectMany(folder => Directory.GetFiles(Golden.PathOf(folder), "*.jinja"))
            .Order(StringComparer.Ordinal).Select(file => (Path.GetFileName(file), new SplitText(File.ReadAllText(file), Piece()))),
    ];

    public override FuzzInput Damage(Mutator mutator)
    {
        var (place, text) = _sources[mutator.Next(_sources.Length)];
        string source = mutator.Next(4) switch
        {
            0 => mutator.Pieces(text, [.. s_statements, .. s_values]),
            1 => mutator.Pieces(text, [Expression(mutator, 3), $"{{{{ {Expression(mutator, 3)} }}}}", .. s_statements]),
            2 => Statements(mutator),
            _ => $"{{{{ {Expression(mutator, 4)} }}}}",
        };
        return new(place, Encoding.UTF8.GetBytes(source));
    }

    public override void Read(FuzzInput input)
    {
        var template = new ChatTemplate(Encoding.UTF8.GetString(input.Content), s_tokens);
        foreach (var conversation in s_conversations)
        {
            try
            {
                Assert.InRange(template.Render(conversation, addGenerationPrompt: true).Length, 0, 10_000_000);
            }
            catch (InvalidOperationException e)
            {
                Assert.StartsWith("The chat template cannot render this conversation", e.Message);
                Assert.Matches("messages: line [0-9]+: ", e.Message);
                Assert.InRange(e.Message.Length, 0, 1000 + (e.Message.Contains("the template says: ") ? 1_000_000 : 0));
            }
        }
    }

    public override bool IsRefusal(Exception e) => e is FormatException && e.Message.StartsWith("The chat template cannot be read: line ");

    private static string Statements(Mutator mutator) => string.Concat(Enumerable.Range(0, 1 + mutator.Next(12)).Select(
        _ => mutator.Next(3) > 0 ? Any(mutator, s_statements) : $"{{{{ {Expression(mutator, 2)} }}}}"));

    private static string Expression(Mutator mutator, int depth)
    {
        if (depth == 0)
            return Any(mutator, s_values);
        string inner = Expression(mutator, depth - 1);
        return mutator.Next(10) switch
        {
            0 or 1 => $"{inner} | {Any(mutator, s_filters)}{Arguments(mutator, depth - 1)}",
            2 => $"({inner}).{Any(mutator, s_methods)}{Arguments(mutator, depth - 1)}",
            3 => $"({inner}) {Any(mutator, ["+", "-", "*", "/", "//", "%", "**", "~", "==", "<", "in", "not in", "and", "or"])} " +
                $"({Expression(mutator, depth - 1)})",
            4 => $"({inner})[{Expression(mutator, depth - 1)}]",
            5 => $"({inner})[{Any(mutator, s_values)}:{Any(mutator, s_values)}:{Any(mutator, s_values)}]",
            6 => $"({inner}) is {Any(mutator, s_tests)}{Arguments(mutator, depth - 1)}",
            7 => $"({inner} if {Any(mutator, s_values)} else {Any(mutator, s_values)})",
            8 => $"{{{Any(mutator, s_values)}: {inner}, {inner}: [{Any(mutator, s_values)}, {inner}]}}",
            _ => $"{inner} | {Any(mutator, ["map", "select", "selectattr", "rejectattr", "sort", "join"])}" +
                $"('{Any(mutator, [.. s_filters, .. s_tests])}', {Any(mutator, s_values)})",
        };
    }

    private static string Arguments(Mutator mutator, int depth) => mutator.Next(5) switch
    {
        0 => "",
        1 => "()",
        2 => $"({Expression(mutator, depth)})",
        3 => $"({Expression(mutator, depth)}, {Any(mutator, s_values)})",
        _ => $"({Any(mutator, s_arguments)}={Expression(mutator, depth)}, {Any(mutator, s_arguments)}={Any(mutator, s_values)})",
    };

    private static string Any(Mutator mutator, string[] values) => values[mutator.Next(values.Length)];

    [GeneratedRegex("""\{[%{#]-?|-?[%}#]\}|'[^'\n]*'|"[^"\n]*"|\w+|[^\w\s]|\s+""")]
    private static partial Regex Piece();
}
