namespace ML.Rlhf;

/// <summary>Chat templates, ready made or from checkpoints: <c>ml.Rlhf().ChatTemplates</c>.</summary>
public sealed class ChatTemplateCatalog
{
    // All blocks stand on lines of their own, whose white space is left out. The block says what the assistant learns to write.
    private const string ChatMLSource =
        """
        {% for message in messages %}
        {{ '<|im_start|>' + message.role + '\n' }}
        {%- if message.role == 'assistant' %}
        {% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}
        {% else %}
        {{- message.content + '<|im_end|>' }}
        {%- endif %}
        {{- '\n' }}
        {%- endfor %}
        {% if add_generation_prompt %}
        {{ '<|im_start|>assistant\n' }}
        {%- endif %}
        """;

    private const string LlamaSource =
        """
        {{ bos_token }}
        {%- for message in messages %}
        {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' }}
        {%- if message.role == 'assistant' %}
        {% generation %}{{ message.content | trim + '<|eot_id|>' }}{% endgeneration %}
        {% else %}
        {{- message.content | trim + '<|eot_id|>' }}
        {%- endif %}
        {%- endfor %}
        {% if add_generation_prompt %}
        {{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
        {%- endif %}
        """;

    private const string HumanAssistantSource =
        """
        {% for message in messages %}
        {% if message.role == 'system' %}
        {{ message.content | trim }}
        {%- elif message.role == 'user' %}
        {{ 'Human: ' + message.content | trim }}
        {%- elif message.role == 'assistant' %}
        {{ 'Assistant:' }}
        {%- generation %}{{ ' ' + message.content | trim + eos_token }}{% endgeneration %}
        {% else %}
        {{ raise_exception('The roles are system, user and assistant, not ' + message.role) }}
        {%- endif %}
        {{- '\n\n' }}
        {%- endfor %}
        {% if add_generation_prompt %}
        {{ 'Assistant:' }}
        {%- endif %}
        """;

    internal ChatTemplateCatalog()
    {
    }

    /// <summary>
    /// ChatML, which Qwen's models and many others use: <c>&lt;|im_start|&gt;user\nHello&lt;|im_end|&gt;\n</c>. Its two tokens must be
    /// special tokens of the model's tokenizer.
    /// </summary>
    public ChatTemplate ChatML() => Create(ChatMLSource);

    /// <summary>
    /// The template of Llama 3: <c>&lt;|start_header_id|&gt;user&lt;|end_header_id|&gt;\n\nHello&lt;|eot_id|&gt;</c>, with contents
    /// trimmed. Its tokens must be special tokens of the model's tokenizer.
    /// </summary>
    public ChatTemplate Llama() => Create(LlamaSource, ("bos_token", "<|begin_of_text|>"), ("eos_token", "<|eot_id|>"));

    /// <summary>
    /// Plain text for a tokenizer with no special token but the end of text: <c>Human: Hello\n\nAssistant: Hi!&lt;|endoftext|&gt;</c>, with
    /// contents trimmed.
    /// </summary>
    /// <param name="endOfText">The text of the tokenizer's end-of-text token.</param>
    /// <exception cref="ArgumentException">There is no such text.</exception>
    public ChatTemplate HumanAssistant(string endOfText = TextTokenizer.DefaultEndOfText)
    {
        ArgumentException.ThrowIfNullOrEmpty(endOfText);
        return Create(HumanAssistantSource, ("eos_token", endOfText));
    }

    /// <summary>A template of your own.</summary>
    /// <param name="template">
    /// Jinja, with <c>messages</c> (each with <c>role</c> and <c>content</c>), <c>add_generation_prompt</c>, <c>bos_token</c>,
    /// <c>eos_token</c>, <c>raise_exception(text)</c> and <c>strftime_now(format)</c>. What stands in
    /// <c>{% generation %}…{% endgeneration %}</c> is what fine-tuning teaches.
    /// </param>
    /// <param name="endOfText">What <c>eos_token</c> is.</param>
    /// <param name="beginOfText">What <c>bos_token</c> is; null: the template has none.</param>
    /// <exception cref="FormatException">It is no Jinja, or uses what is not supported; the message names the line.</exception>
    public ChatTemplate FromJinja(string template, string endOfText = TextTokenizer.DefaultEndOfText, string? beginOfText = null)
    {
        ArgumentException.ThrowIfNullOrEmpty(template);
        ArgumentException.ThrowIfNullOrEmpty(endOfText);
        return beginOfText is null
            ? Create(template, ("eos_token", endOfText))
            : Create(template, ("eos_token", endOfText), ("bos_token", beginOfText));
    }

    /// <summary>The template of a checkpoint in the layout of Hugging Face.</summary>
    /// <param name="folder">
    /// A folder with <c>chat_template.jinja</c>, or with <c>tokenizer_config.json</c> that has a <c>chat_template</c>.
    /// </param>
    /// <param name="name">Which one, where a checkpoint has several; null for the one named <c>default</c>.</param>
    /// <exception cref="FileNotFoundException">There is no template; the message says where it was looked for.</exception>
    /// <exception cref="FormatException">The files are damaged, or the template uses what is not supported.</exception>
    /// <exception cref="ArgumentException">There are templates, but none of this name; the message lists them.</exception>
    public ChatTemplate FromPretrained(string folder, string? name = null)
    {
        ArgumentException.ThrowIfNullOrEmpty(folder);
        return ChatTemplateFiles.Find(folder, name) ?? throw new FileNotFoundException(
            $"'{folder}' has no chat template: no '{ChatTemplateFiles.TemplateFile}', and no 'chat_template' in a " +
            $"'{ChatTemplateFiles.ConfigurationFile}'. The model may have been trained without one; choose a ready-made template.");
    }

    private static ChatTemplate Create(string source, params ReadOnlySpan<(string Name, string Text)> tokens)
    {
        var texts = new Dictionary<string, string>();
        foreach (var (name, text) in tokens)
            texts[name] = text;
        return new ChatTemplate(source, texts);
    }
}
