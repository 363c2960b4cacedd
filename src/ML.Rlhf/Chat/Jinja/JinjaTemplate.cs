namespace ML.Rlhf.Jinja;

/// <summary>
/// A template in the part of Jinja that chat templates use, with the settings of transformers: no files, no reflection, nothing that
/// changes a value but <c>namespace</c>, and limits on size, depth and steps.
/// </summary>
internal sealed class JinjaTemplate
{
    public const int MaximumLength = 1 << 20;

    private readonly IReadOnlyList<JinjaStatement> _body;

    private JinjaTemplate((IReadOnlyList<JinjaStatement> Body, bool HasGeneration) parsed) => (_body, HasGeneration) = parsed;

    /// <summary>Whether the template says itself what the assistant writes.</summary>
    public bool HasGeneration { get; }

    /// <exception cref="JinjaException">The template is no Jinja, or uses what is not supported; with the line.</exception>
    public static JinjaTemplate Parse(string source) => source.Length <= MaximumLength
        ? new JinjaTemplate(JinjaParser.Parse(source))
        : throw new JinjaException($"the template has {source.Length} characters, more than the {MaximumLength} that are read", 1);

    /// <summary>Renders; may be called from several threads.</summary>
    /// <param name="variables">What the template can name.</param>
    /// <param name="inputLength">Characters of the variables; the rendering may take time and memory in proportion.</param>
    /// <param name="clock">For <c>strftime_now</c>.</param>
    /// <exception cref="JinjaException">The template refuses the variables or cannot deal with them; with the line.</exception>
    public JinjaText Render(IEnumerable<KeyValuePair<string, object?>> variables, long inputLength, TimeProvider clock)
    {
        var interpreter = new JinjaInterpreter(new JinjaBudget(inputLength), clock);
        return interpreter.Render(_body, variables);
    }
}
