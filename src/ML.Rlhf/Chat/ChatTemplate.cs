using System.Text.Json;
using System.Text.Json.Serialization;
using ML.Rlhf.Jinja;

namespace ML.Rlhf;

/// <summary>
/// How a conversation becomes one text for a language model: a Jinja template as Hugging Face checkpoints have them, and the special
/// tokens that it names. Get one from <see cref="ChatTemplateCatalog"/>; it is saved with the model.
/// </summary>
/// <remarks>
/// <para>It never changes, and may be used from several threads.</para>
/// <para>
/// Templates come with models that others made: they are interpreted with limits on size, depth and steps, and reach nothing but the
/// conversation. What people say is never read as a special token, so that nobody can end a turn or speak in another's name.
/// </para>
/// </remarks>
public sealed class ChatTemplate : IEquatable<ChatTemplate>
{
    private readonly JinjaTemplate _template;
    private readonly KeyValuePair<string, object?>[] _tokens;

    /// <param name="source">The Jinja template.</param>
    /// <param name="specialTokens">Texts of special tokens by the names that templates know: <c>bos_token</c>, <c>eos_token</c>.</param>
    /// <exception cref="FormatException">The template is no Jinja, or uses what is not supported; the message names the line.</exception>
    internal ChatTemplate(string source, IReadOnlyDictionary<string, string> specialTokens)
    {
        try
        {
            _template = JinjaTemplate.Parse(source);
        }
        catch (JinjaException e)
        {
            throw new FormatException($"The chat template cannot be read: line {e.Line}: {e.Message}. Give another template, for " +
                "example a ready-made one of Rlhf().ChatTemplates.", e);
        }
        Source = source;
        SpecialTokens = specialTokens;
        _tokens = [.. specialTokens.Select(token => KeyValuePair.Create(token.Key, (object?)new JinjaText(token.Value)))];
    }

    /// <summary>The Jinja template.</summary>
    public string Source { get; }

    /// <summary>Texts of special tokens, by the names that the template may use: <c>bos_token</c>, <c>eos_token</c> and others.</summary>
    public IReadOnlyDictionary<string, string> SpecialTokens { get; }

    /// <summary>Whether the template says itself, by generation blocks, what the assistant writes.</summary>
    internal bool MarksAssistant => _template.HasGeneration;

    /// <summary>What <c>strftime_now</c> reads; only tests have another clock.</summary>
    internal TimeProvider Clock { get; init; } = TimeProvider.System;

    /// <summary>The text of a conversation.</summary>
    /// <param name="messages">The messages, the first one first.</param>
    /// <param name="addGenerationPrompt">Whether to end with what stands before an answer of the assistant.</param>
    /// <exception cref="InvalidOperationException">The template refuses the conversation (many want user and assistant to take turns),
    /// or cannot deal with it; the message says why and names the line.</exception>
    public string Render(IReadOnlyList<ChatMessage> messages, bool addGenerationPrompt = false) =>
        RenderText(messages, addGenerationPrompt).Value;

    /// <summary>The text of a conversation, with where each character comes from.</summary>
    internal JinjaText RenderText(IReadOnlyList<ChatMessage> messages, bool addGenerationPrompt)
    {
        ArgumentNullException.ThrowIfNull(messages);
        var conversation = new Sequence([.. messages.Select(Value)]);
        try
        {
            return _template.Render(
                [.. _tokens, new("messages", conversation), new("add_generation_prompt", addGenerationPrompt)],
                messages.Sum(message => (long)message.Role.Length + message.Content.Length), Clock);
        }
        catch (JinjaException e)
        {
            throw new InvalidOperationException(
                $"The chat template cannot render this conversation of {messages.Count} messages: line {e.Line}: {e.Message}. " +
                "Change the conversation, or use another template.", e);
        }
    }

    private static Mapping Value(ChatMessage message)
    {
        ArgumentNullException.ThrowIfNull(message);
        return new Mapping(new()
        {
            [new JinjaText("role")] = Text(message.Role),
            [new JinjaText("content")] = Text(message.Content),
        });

        static JinjaText Text(string text) => JinjaText.From(WellFormedText.Of(text).ToString(), Origin.Message);
    }

    internal void Save(Stream stream) =>
        JsonSerializer.Serialize(stream, new ChatTemplateContent(Source, new(SpecialTokens)), ChatTemplateJson.Default.ChatTemplateContent);

    /// <exception cref="FormatException">It is not what <see cref="Save"/> wrote.</exception>
    internal static ChatTemplate Load(Stream stream)
    {
        try
        {
            var content = JsonSerializer.Deserialize(stream, ChatTemplateJson.Default.ChatTemplateContent)
                ?? throw new JsonException("it is null.");
            return content.SpecialTokens.ContainsValue(null!) // which the reader does not look for in dictionaries
                ? throw new JsonException("a special token is null.")
                : new ChatTemplate(content.Template, content.SpecialTokens);
        }
        catch (JsonException e)
        {
            throw new FormatException($"The saved chat template is damaged: {e.Message}", e);
        }
    }

    /// <summary>Whether two templates are the same text with the same special tokens.</summary>
    public bool Equals(ChatTemplate? other) => other is not null && Source == other.Source
        && SpecialTokens.Count == other.SpecialTokens.Count
        && SpecialTokens.All(token => other.SpecialTokens.TryGetValue(token.Key, out string? text) && text == token.Value);

    /// <inheritdoc/>
    public override bool Equals(object? obj) => Equals(obj as ChatTemplate);

    /// <inheritdoc/>
    public override int GetHashCode() => Source.GetHashCode(StringComparison.Ordinal);
}

/// <summary>What is saved of a template.</summary>
internal sealed record ChatTemplateContent(
    [property: JsonRequired] string Template, [property: JsonRequired] Dictionary<string, string> SpecialTokens);

[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase, RespectNullableAnnotations = true)]
[JsonSerializable(typeof(ChatTemplateContent))]
[JsonSerializable(typeof(Dictionary<string, string>))]
internal sealed partial class ChatTemplateJson : JsonSerializerContext;
