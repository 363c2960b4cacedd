using System.Diagnostics;
using System.Text;
using ML.Rlhf.Jinja;
using ML.Rlhf.TestSupport;

namespace ML.Rlhf.Tests.Chat;

/// <summary>Templates against renderings of the Python package Jinja2; see the fixtures' README.</summary>
public sealed class JinjaTemplateTests
{
    private static readonly Golden s_expected = Golden.Load("chat-templates/expected.json");

    public static TheoryData<string> Templates() => [.. s_expected["cases"].Items.Select(c => c["template"].Text).Distinct()];

    public static TheoryData<int> Expressions() => [.. Enumerable.Range(0, s_expected["expressions"].Items.Count())];

    [Theory]
    [MemberData(nameof(Templates))]
    public void Templates_of_known_families_render_as_Jinja2_renders_them(string name)
    {
        string source = File.ReadAllText(Golden.PathOf($"chat-templates/{name}.jinja"));
        foreach (var expected in s_expected["cases"].Items.Where(c => c["template"].Text == name))
        {
            var template = new ChatTemplate(source, new Dictionary<string, string>
            {
                ["bos_token"] = expected["bos_token"].Text,
                ["eos_token"] = expected["eos_token"].Text,
            });
            string Render() => template.Render(ChatFixtures.Messages(expected["messages"]), expected["add_generation_prompt"].Boolean);
            if (expected.Has("rendered"))
                Assert.Equal(expected["rendered"].Text, WithoutClock(Render()));
            else
                Assert.Contains(expected["error"].Text, Assert.Throws<InvalidOperationException>(Render).Message);
        }

        // The one difference: here strftime_now is defined.
        static string WithoutClock(string text) => text.Replace("Today Date: the day it is", "Today Date: 26 Jul 2024");
    }

    [Theory]
    [MemberData(nameof(Expressions))]
    public void Expressions_and_statements_mean_what_they_mean_in_Jinja2(int index)
    {
        var expected = s_expected["expressions"][index];
        var messages = ChatFixtures.Messages(s_expected["cases"][4]["messages"]);
        var template = new ChatTemplate(expected[0].Text.Replace('⏎', '\n'), new Dictionary<string, string> { ["eos_token"] = "</s>" });

        Assert.Equal(expected[1].Text, template.Render(messages));
    }

    [Theory]
    [InlineData("a\nb {{ x", 2, "does not end with '}}'")]
    [InlineData("{% if x %}\nyes", 2, "'elif' or 'else' or 'endif' is missing")]
    [InlineData("{{ 'abc }}", 1, "the string that begins here does not end")]
    [InlineData("{{ 1 +\n+ }}", 2, "expected a value, but found '}}'")]
    [InlineData("{{ a b }}", 1, "expected '}}', but found 'b'")]
    [InlineData("\n{% include 'other' %}", 2, "'include' is not supported: a chat template stands alone")]
    [InlineData("{% trans %}", 1, "the statement 'trans' is unknown")]
    [InlineData("{{ x | pprint }}", 1, "the filter 'pprint' is not supported")]
    [InlineData("{{ x is wrong }}", 1, "the test 'wrong' is not supported")]
    [InlineData("{% endif %}", 1, "the statement 'endif' is unknown or stands where it has no meaning")]
    [InlineData("{% break %}", 1, "'break' stands outside of a loop")]
    [InlineData("{{ 99999999999999999999 }}", 1, "the number 99999999999999999999 is too large")]
    [InlineData("{{ x ! y }}", 1, "unexpected character '!'")]
    [InlineData("{{ f(*args) }}", 1, "'*' before an argument is not supported")]
    [InlineData("{% raw %} {{", 1, "'raw' has no 'endraw'")]
    [InlineData("{# no end", 1, "the comment does not end with '#}'")]
    [InlineData("{{ '\\ud' }}", 1, "needs 4 hexadecimal digits")]
    public void A_template_that_cannot_be_read_is_refused_with_its_line(string source, int line, string reason)
    {
        var e = Assert.Throws<FormatException>(() => Template(source));

        Assert.StartsWith($"The chat template cannot be read: line {line}: ", e.Message);
        Assert.Contains(reason, e.Message);
    }

    [Theory]
    [InlineData("a\n{{ missing.attribute }}", 2, "'missing' is undefined")]
    [InlineData("{{ messages[0].content + 1 }}", 1, "'+' has no meaning between a string and an integer")]
    [InlineData("\n\n{{ raise_exception('No, ' ~ 'thanks') }}", 3, "the template says: No, thanks")]
    [InlineData("{{ 1 / 0 }}", 1, "division by zero")]
    [InlineData("{{ 'a' < 1 }}", 1, "a string and an integer cannot be ordered")]
    [InlineData("{{ messages.append(1) }}", 1, "'append' would change a list")]
    [InlineData("{% set a, b = [1] %}", 1, "1 values cannot be given to 2 names")]
    [InlineData("{{ undefined_function() }}", 1, "'undefined_function' is undefined")]
    [InlineData("{{ 9223372036854775807 + 1 }}", 1, "is too large")]
    [InlineData("{{ strftime_now('%Q') }}", 1, "the date code '%Q' is not supported")]
    [InlineData("{{ ''.__class__ }}{{ ''.__class__.__mro__ }}", 1, "'__class__' is undefined")]
    public void A_template_that_cannot_go_on_says_why_and_where(string source, int line, string reason)
    {
        var e = Assert.Throws<InvalidOperationException>(() => Template(source).Render([ChatMessage.User("Hi")]));

        Assert.StartsWith($"The chat template cannot render this conversation of 1 messages: line {line}: ", e.Message);
        Assert.Contains(reason, e.Message);
    }

    public static TheoryData<string> HostileTemplates() =>
    [
        "{% for i in range(100000) %}{% for j in range(100000) %}{{ i }}{% endfor %}{% endfor %}",
        "{{ range(1000000000) }}",
        "{{ 'a' * 1000000000 }}",
        "{{ 'a' * 9223372036854775807 }}",
        "{{ [0] * 1000000000 }}",
        "{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=['a']) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x={}) %}{% for i in range(60) %}{% set ns.x = {'a': ns.x, 'b': ns.x} %}{% endfor %}{{ ns.x | tojson }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{% if n > 0 %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% set a = 'a' * 100000 %}{% set b = a.replace('a', a) %}{{ b.replace('a', a) }}",
        "{% set a = ('a' * 100000) %}{{ (a | list | join(a)) | length }}",
        "{% set a = 'a' * 1000000 %}{% for i in range(100000) %}{{ (a ~ 'b').find('a' * 500000 ~ 'c') }}{% endfor %}",
        "{% set a = range(100000) | list %}{% for i in a %}{% if a == a %}{% endif %}{% endfor %}",
        "{% set ns = namespace(x=2) %}{% for i in range(100) %}{% set ns.x = ns.x ** ns.x %}{% endfor %}",
        "{% set a = range(50000) | list %}{{ a | unique | list | length }}",
        "{{ ('a' * 1000000) | indent(1000) | tojson(indent=16) }}{{ '%s' * 1000000 % 1 }}",
        "{% set a = 'a\n' * 500000 %}{{ a | indent(1000, first=true) }}",
        "{% for i in range(100000) %}{{ messages[0].content | upper | lower | title | trim | length }}{% endfor %}{{ 'x' * 9999999 }}",
    ];

    [Theory]
    [MemberData(nameof(HostileTemplates))]
    public void Hostile_templates_end_soon_and_fill_no_memory(string source)
    {
        var watch = Stopwatch.StartNew();
        long before = GC.GetAllocatedBytesForCurrentThread();

        Assert.Throws<InvalidOperationException>(() => Template(source).Render([ChatMessage.User("Hi")]));

        Assert.True(watch.Elapsed < TimeSpan.FromSeconds(20), $"It took {watch.Elapsed}.");
        long allocated = GC.GetAllocatedBytesForCurrentThread() - before;
        Assert.True(allocated < 4L << 30, $"It allocated {allocated >> 20} MB.");
    }

    public static TheoryData<string> DeepTemplates() =>
    [
        "{{ " + new string('(', 100_000) + "1" + new string(')', 100_000) + " }}",
        "{{ " + new string('[', 100_000) + new string(']', 100_000) + " }}",
        "{{ " + new string('-', 100_000) + "1 }}",
        "{{ " + string.Concat(Enumerable.Repeat("not ", 100_000)) + "1 }}",
        "{{ " + string.Concat(Enumerable.Repeat("1 if 1 else ", 50_000)) + "1 }}",
        "{{ 1" + string.Concat(Enumerable.Repeat(" + 1", 100_000)) + " }}",
        "{{ a" + string.Concat(Enumerable.Repeat(".a", 100_000)) + " }}",
        "{{ a" + string.Concat(Enumerable.Repeat("|trim", 100_000)) + " }}",
        string.Concat(Enumerable.Repeat("{% if 1 %}", 50_000)) + string.Concat(Enumerable.Repeat("{% endif %}", 50_000)),
        string.Concat(Enumerable.Repeat("{% if 1 %}", 60)) + "x" + string.Concat(Enumerable.Repeat("{% endif %}", 61)),
        new string(' ', JinjaTemplate.MaximumLength + 1),
        "{{ 'a" + new string('\\', 500_000) + "b",
    ];

    [Theory]
    [MemberData(nameof(DeepTemplates))]
    public void Deep_and_long_templates_are_refused_without_filling_the_stack(string source)
    {
        var e = Record.Exception(() => Template(source).Render([]));

        Assert.True(e is FormatException or InvalidOperationException, e?.ToString());
    }

    [Fact]
    public void Damaged_templates_are_read_or_refused()
    {
        const string Marks = "{}%#-+|()[]'\"\n .";
        var random = new Random(7);
        string[] sources = [.. Directory.EnumerateFiles(Golden.PathOf("chat-templates"), "*.jinja").Select(File.ReadAllText)];
        for (int i = 0; i < 3000; i++)
        {
            var source = new StringBuilder(sources[random.Next(sources.Length)]);
            for (int change = random.Next(1, 5); change > 0; change--)
            {
                int at = random.Next(source.Length);
                int length = random.Next(Math.Min(30, source.Length - at));
                string piece = source.ToString(at, length);
                source = random.Next(3) switch
                {
                    0 => source.Remove(at, length),
                    1 => source.Insert(random.Next(source.Length), piece),
                    _ => source.Insert(at, Marks[random.Next(Marks.Length)]),
                };
            }
            try
            {
                Template(source.ToString()).Render([ChatMessage.User("Hi"), ChatMessage.Assistant("Ho")], addGenerationPrompt: true);
            }
            catch (Exception e) when (e is FormatException or InvalidOperationException)
            {
            }
        }
    }

    [Fact]
    public void Long_conversations_render()
    {
        string source = File.ReadAllText(Golden.PathOf("chat-templates/qwen3.jinja"));
        ChatMessage[] messages = [.. Enumerable.Range(0, 2000).Select(i => i % 2 == 0
            ? ChatMessage.User(new string('é', 1000))
            : ChatMessage.Assistant(new string('é', 1000)))];

        Assert.Equal(2_000_000, Template(source).Render(messages).Count(c => c == 'é'));
    }

    [Fact]
    public void The_date_is_that_of_the_clock_in_English()
    {
        var template = new ChatTemplate("{{ strftime_now('%d %b %Y %% %A %H:%M') }}", new Dictionary<string, string>())
        {
            Clock = new FixedClock(),
        };

        Assert.Equal("09 May 2024 % Thursday 07:08", template.Render([]));
    }

    private static ChatTemplate Template(string source) => new(source, new Dictionary<string, string>());

    private sealed class FixedClock : TimeProvider
    {
        public override TimeZoneInfo LocalTimeZone => TimeZoneInfo.Utc;

        public override DateTimeOffset GetUtcNow() => new(2024, 5, 9, 7, 8, 0, TimeSpan.Zero);
    }
}
