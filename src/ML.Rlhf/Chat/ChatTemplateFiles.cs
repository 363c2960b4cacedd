using System.Text.Json;
using ML.Rlhf.Torch.Checkpoints;

namespace ML.Rlhf;

/// <summary>Where checkpoints in the layout of Hugging Face have their chat templates.</summary>
internal static class ChatTemplateFiles
{
    public const string TemplateFile = "chat_template.jinja", ConfigurationFile = "tokenizer_config.json";
    private const string MoreTemplates = "additional_chat_templates", SpecialTokensFile = "special_tokens_map.json", Default = "default";
    private const long MaximumFileLength = 64 << 20; // the configuration of a large vocabulary has some megabytes

    private static readonly string[] s_tokens =
        ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

    /// <summary>The template of a checkpoint.</summary>
    /// <param name="folder">The checkpoint's folder.</param>
    /// <param name="name">Which one; null for the default one.</param>
    /// <returns>Null where the checkpoint has no template at all.</returns>
    /// <exception cref="FormatException">A file is damaged, or the template uses what is not supported.</exception>
    /// <exception cref="ArgumentException">There are templates, but none of this name.</exception>
    public static ChatTemplate? Find(string folder, string? name)
    {
        var templates = new Dictionary<string, string>();
        var tokens = new Dictionary<string, string>();
        foreach (string file in new[] { SpecialTokensFile, ConfigurationFile })
        {
            using var json = ReadJson(Path.Combine(folder, file));
            if (json is null)
                continue;
            try
            {
                ReadTokens(json.RootElement, tokens);
                if (file == ConfigurationFile && json.RootElement.TryGetProperty("chat_template", out var value))
                    ReadTemplates(value, templates, Path.Combine(folder, file));
            }
            catch (InvalidOperationException e) // half of a surrogate pair
            {
                throw new FormatException($"'{Path.Combine(folder, file)}' has a text that is not well-formed Unicode: {e.Message}", e);
            }
        }
        if (ReadText(Path.Combine(folder, TemplateFile)) is { } alone) // newer than the configuration, where both are there
            templates[Default] = alone;
        string more = Path.Combine(folder, MoreTemplates);
        if (Directory.Exists(more))
        {
            foreach (string file in Directory.EnumerateFiles(more, "*.jinja"))
                templates[Path.GetFileNameWithoutExtension(file)] = ReadText(file)!;
        }

        if (templates.Count == 0)
            return null;
        name ??= Default;
        return templates.TryGetValue(name, out string? source)
            ? new ChatTemplate(source, tokens)
            : throw new ArgumentException(
                $"'{folder}' has no chat template '{name}', but {string.Join(", ", templates.Keys.Select(key => $"'{key}'"))}. " +
                "Give one of these names.", nameof(name));
    }

    /// <summary>Writes a template with its tokens, or takes away what another model left in the folder.</summary>
    public static void Write(ChatTemplate? template, string folder)
    {
        string path = Path.Combine(folder, TemplateFile);
        File.Delete(path);
        if (template is null)
            return;
        File.WriteAllText(path, template.Source);
        using var stream = File.Create(Path.Combine(folder, SpecialTokensFile));
        var tokens = new Dictionary<string, string>(template.SpecialTokens);
        JsonSerializer.Serialize(stream, tokens, ChatTemplateJson.Default.DictionaryStringString);
    }

    private static void ReadTokens(JsonElement root, Dictionary<string, string> tokens)
    {
        foreach (string name in s_tokens)
        {
            if (!root.TryGetProperty(name, out var token))
                continue;
            if (token.ValueKind == JsonValueKind.Object && token.TryGetProperty("content", out var content))
                token = content;
            if (token.ValueKind == JsonValueKind.String)
                tokens[name] = token.GetString()!;
        }
    }

    private static void ReadTemplates(JsonElement value, Dictionary<string, string> templates, string path)
    {
        if (value.ValueKind == JsonValueKind.String)
            templates[Default] = value.GetString()!;
        else if (value.ValueKind == JsonValueKind.Array)
        {
            foreach (var item in value.EnumerateArray())
            {
                if (item.ValueKind != JsonValueKind.Object || Text(item, "name") is not { } name
                    || Text(item, "template") is not { } template)
                    throw new FormatException($"'{path}': each item of 'chat_template' needs a 'name' and a 'template'.");
                templates[name] = template;
            }
        }
        else if (value.ValueKind != JsonValueKind.Null)
            throw new FormatException($"'{path}': 'chat_template' is neither a text nor a list of named texts.");

        static string? Text(JsonElement item, string name) =>
            item.TryGetProperty(name, out var text) && text.ValueKind == JsonValueKind.String ? text.GetString() : null;
    }

    private static JsonDocument? ReadJson(string path)
    {
        if (!PretrainedFile.Exists(path))
            return null;
        var json = PretrainedJson.Read(path, MaximumFileLength);
        if (json.RootElement.ValueKind == JsonValueKind.Object)
            return json;
        json.Dispose();
        throw new FormatException($"'{path}' is no JSON object. Copy the file again.");
    }

    private static string? ReadText(string path)
    {
        var file = new FileInfo(path);
        if (!file.Exists)
            return null;
        return file.Length <= MaximumFileLength
            ? File.ReadAllText(path)
            : throw new FormatException($"'{path}' has {file.Length} bytes, more than the {MaximumFileLength} that are read.");
    }
}
