using System.Text;
using Microsoft.ML;
using ML.Rlhf.Tests.Tokenizers;

namespace ML.Rlhf.Tests.Fuzz;

/// <summary>Inputs made to take long, or all memory. Where one does, the run's patience ends.</summary>
public sealed class HostileInputTests
{
    /// <summary>Each step of a template is cheap by itself, and reads or makes something large.</summary>
    [Theory]
    [InlineData("a long name", "{% for i in range(90000) %}{{ #N }}{% endfor %}")]
    [InlineData("a long key", "{% for i in range(90000) %}{{ messages[0]['#S'] }}{% endfor %}")]
    [InlineData("a long key of a dictionary", "{% for i in range(90000) %}{% set d = {'#S': 1} %}{% endfor %}")]
    [InlineData("a long key of get", "{% for i in range(90000) %}{{ messages[0].get('#S') }}{% endfor %}")]
    [InlineData("a long text's first character", "{% set s = '#S' %}{% for i in range(90000) %}{{ s[0] }}{% endfor %}")]
    [InlineData("a long date", "{% set s = '#S' %}{% for i in range(90000) %}{% set t = strftime_now(s) %}{% endfor %}")]
    [InlineData("many strings side by side", "{{ #M }}")]
    [InlineData("a text that doubles", "{% set ns = namespace(s='aa') %}{% for i in range(90) %}{% set ns.s = ns.s + ns.s %}{% endfor %}")]
    [InlineData("loops in loops", "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}")]
    [InlineData("open parentheses", "{{ #P")]
    [InlineData("open blocks", "#I")]
    public void A_template_that_would_take_forever_is_refused(string name, string template)
    {
        const int Length = 900_000;
        string source = template.Replace("#N", new string('n', Length)).Replace("#S", new string('s', Length))
            .Replace("#M", string.Concat(Enumerable.Repeat("'a' ", Length / 4))).Replace("#P", new string('(', Length))
            .Replace("#I", string.Concat(Enumerable.Repeat("{% if a %}", Length / 10)));
        using var format = new JinjaFuzz();

        var result = FuzzRun.Run(format, "jinja", [(name, new FuzzInput("template", Encoding.UTF8.GetBytes(source)))]);

        Assert.True(result.Failures.Count == 0, string.Join('\n', result.Failures));
    }

    /// <summary>With time that grows with the square of the piece, each of these would take an hour.</summary>
    [Theory, Trait("Tier", "Slow")]
    [InlineData(" ")]
    [InlineData("a")]
    [InlineData("\n")]
    [InlineData("🙂")]
    [InlineData("e\u0301")]
    [InlineData("<")]
    public void A_text_of_one_million_equal_characters_is_encoded(string character)
    {
        string text = string.Concat(Enumerable.Repeat(character, 1_000_000));
        foreach (string name in new[] { "qwen2", "llama3", "llama2", "gemma", "bert" })
        {
            var tokenizer = new MLContext().Rlhf().Tokenizers.FromPretrained(
                TokenizerFixtures.PathOf($"pretrained/{name}"), name == "llama3" ? "<|eot_id|>" : null);
            int[] tokens = [];
            var thread = new Thread(() => tokens = tokenizer.Encode(text)) { IsBackground = true };
            thread.Start();
            Assert.True(thread.Join(TimeSpan.FromSeconds(30)), name);
            if (name == "llama3") // which changes nothing of a text
                Assert.Equal(text, tokenizer.Decode(tokens));
        }
    }
}
