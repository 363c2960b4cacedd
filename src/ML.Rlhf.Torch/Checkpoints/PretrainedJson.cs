using System.Text.Json;
using System.Text.Unicode;

namespace ML.Rlhf.Torch.Checkpoints;

/// <summary>Reads the JSON files of a pretrained model, which come from strangers: their size and depth are bounded.</summary>
internal static class PretrainedJson
{
    /// <summary>Configurations have kilobytes, an index of a model with thousands of tensors a few megabytes.</summary>
    public const long DefaultMaximumBytes = 16 << 20;

    private const int MaximumDepth = 64;

    /// <summary>Reads a file.</summary>
    /// <param name="path">Where it lies.</param>
    /// <param name="maximumBytes">A larger file is refused before it is read. A tokenizer may need more than the default.</param>
    /// <returns>
    /// The document, which the caller disposes. No object in it has two members of one name, and all of it is UTF-8. Half of a surrogate
    /// pair can still stand in a text as an escape (<c>\ud800</c>): asking for such a text is an <see cref="InvalidOperationException"/>.
    /// </returns>
    /// <exception cref="FileNotFoundException">There is no such file.</exception>
    /// <exception cref="FormatException">It is too large, no JSON, nested deeper than 64 levels, or has a name twice.</exception>
    public static JsonDocument Read(string path, long maximumBytes = DefaultMaximumBytes)
    {
        using var stream = PretrainedFile.Open(path);
        if (stream.Length > maximumBytes)
            throw new FormatException(
                $"'{path}' has {stream.Length} bytes, and at most {maximumBytes} are read. It is no such file of a pretrained model; " +
                "download or save it again.");
        var content = new byte[stream.Length];
        content = content[..stream.ReadAtLeast(content, content.Length, throwOnEndOfStream: false)];
        if (!Utf8.IsValid(content))
            throw Invalid(path, "it is no UTF-8 text");
        try
        {
            return JsonDocument.Parse(content, new JsonDocumentOptions { MaxDepth = MaximumDepth, AllowDuplicateProperties = false });
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            throw Invalid(path, e.Message.TrimEnd('.'));
        }
    }

    private static FormatException Invalid(string path, string problem) =>
        new($"'{path}' is not valid JSON: {problem}. The file is damaged; download or save it again.");
}
