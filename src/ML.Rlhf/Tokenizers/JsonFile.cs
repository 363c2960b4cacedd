using System.Text.Json;
using System.Text.Unicode;

namespace ML.Rlhf;

/// <summary>
/// JSON that came from elsewhere: read whole, with a limit, and every surprise a <see cref="FormatException"/> that names its place.
/// </summary>
internal static class JsonFile
{
    /// <summary>The largest tokenizer.json in use has 35 MB.</summary>
    private const long MaximumLength = 256 << 20;

    private static readonly JsonDocumentOptions s_options = new() { AllowDuplicateProperties = false, MaxDepth = 32 };

    /// <summary>The object that a file holds.</summary>
    /// <exception cref="FormatException">It is damaged, too long, or no JSON object.</exception>
    public static JsonElement Read(string path)
    {
        CheckLength(path);
        byte[] bytes = File.ReadAllBytes(path);
        if (!Utf8.IsValid(bytes))
            throw new FormatException($"{path} is damaged: it is not well-formed UTF-8.");
        try
        {
            int start = bytes.AsSpan().StartsWith("\uFEFF"u8) ? 3 : 0; // a byte order mark
            JsonElement root = JsonDocument.Parse(bytes.AsMemory(start), s_options).RootElement;
            return root.ValueKind == JsonValueKind.Object ? root : throw new FormatException($"{path} holds no JSON object.");
        }
        catch (Exception exception) when (exception is JsonException or InvalidOperationException) // half a surrogate pair in a name
        {
            throw new FormatException($"{path} is damaged, or is no JSON: {exception.Message}");
        }
    }

    /// <summary>The object that a file holds, or null if there is no such file.</summary>
    public static JsonElement? ReadIfThere(string path) => File.Exists(path) ? Read(path) : null;

    public static void CheckLength(string path)
    {
        long length = new FileInfo(path).Length;
        if (length > MaximumLength)
            throw new FormatException($"{path} has {length} bytes; a file of a tokenizer has at most {MaximumLength}.");
    }

    /// <summary>A member, or null where it is missing or null.</summary>
    public static JsonElement? Member(this JsonElement element, string name) =>
        element.ValueKind == JsonValueKind.Object && element.TryGetProperty(name, out JsonElement member)
            && member.ValueKind != JsonValueKind.Null ? member : null;

    public static string? Text(this JsonElement element, string name) => element.Member(name)?.AsText(name);

    public static bool? Flag(this JsonElement element, string name) => element.Member(name) switch
    {
        null => null,
        { ValueKind: JsonValueKind.True } => true,
        { ValueKind: JsonValueKind.False } => false,
        var other => throw Unexpected(name, "true or false", other.Value),
    };

    /// <summary>The members of an object of numbers, such as the ids of tokens.</summary>
    public static IEnumerable<(string Text, int Id)> Ids(this JsonElement element, string name) => element.ValueKind == JsonValueKind.Object
        ? element.EnumerateObject().Select(token => (token.Name, token.Value.AsId(name)))
        : throw Unexpected(name, "an object", element);

    public static IEnumerable<JsonElement> Items(this JsonElement element, string name) => element.Member(name) switch
    {
        null => [],
        { ValueKind: JsonValueKind.Array } array => array.EnumerateArray(),
        var other => throw Unexpected(name, "an array", other.Value),
    };

    public static string AsText(this JsonElement element, string name)
    {
        if (element.ValueKind != JsonValueKind.String)
            throw Unexpected(name, "a text", element);
        try
        {
            return element.GetString()!;
        }
        catch (InvalidOperationException) // half a surrogate pair
        {
            throw new FormatException($"\"{name}\" has a text that is not well-formed Unicode.");
        }
    }

    public static int AsId(this JsonElement element, string name) =>
        element.ValueKind == JsonValueKind.Number && element.TryGetInt32(out int id) && id >= 0
            ? id
            : throw Unexpected(name, "a whole number from 0", element);

    private static FormatException Unexpected(string name, string expected, JsonElement found)
    {
        string json = found.ValueKind == JsonValueKind.Undefined ? "missing" : found.GetRawText();
        return new FormatException($"\"{name}\" should be {expected}, and is {(json.Length > 60 ? json[..60] + "…" : json)}.");
    }
}
