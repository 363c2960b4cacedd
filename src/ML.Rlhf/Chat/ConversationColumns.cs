using System.Text.Json;
using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;
using ML.Rlhf.Bridge;

namespace ML.Rlhf;

/// <summary>The columns that hold conversations: one of JSON texts, or two of vectors of texts.</summary>
/// <param name="Messages">The JSON column, or null.</param>
/// <param name="Roles">The column of roles, or null.</param>
/// <param name="Contents">The column of what is said, with one text for each role, or null.</param>
internal sealed record ConversationColumns(string? Messages, string? Roles, string? Contents)
{
    /// <summary>Those of the columns that there are.</summary>
    public string[] Names => Messages is not null ? [Messages] : [Roles!, Contents!];

    /// <summary>Checks that the columns are there and hold what they should.</summary>
    /// <param name="host">The host that errors go through.</param>
    /// <param name="schema">The data's shape.</param>
    /// <param name="of">What comes before a role in an error: "validation ".</param>
    /// <exception cref="ArgumentOutOfRangeException">A column is missing or holds something else.</exception>
    public void Require(IExceptionContext host, SchemaShape schema, string of = "")
    {
        if (Messages is not null)
        {
            TextColumns.RequireText(host, schema, of + "messages", Messages);
            return;
        }
        TextColumns.RequireTexts(host, schema, of + "roles", Roles!);
        TextColumns.RequireTexts(host, schema, of + "contents", Contents!);
    }

    /// <summary>Streams the conversations; nothing but these columns is read.</summary>
    /// <exception cref="InvalidOperationException">A row holds no conversation; the message names it.</exception>
    public IEnumerable<ChatMessage[]> Read(IDataView data, Action checkCanceled)
    {
        using var cursor = data.GetRowCursor(Names.Select(name => data.Schema[name]));
        var read = CreateReader(cursor);
        while (TextColumns.MoveNext(cursor, checkCanceled))
            yield return read();
    }

    /// <summary>Reads the conversation of the row that a cursor stands at.</summary>
    /// <exception cref="InvalidOperationException">The row holds no conversation; the message names it.</exception>
    public Func<ChatMessage[]> CreateReader(DataViewRow row)
    {
        if (Messages is not null)
        {
            var json = TextColumns.Text(row, Messages);
            return () => Parse(json(), row.Position + 1);
        }
        Func<string[]> roles = TextColumns.Texts(row, Roles!), contents = TextColumns.Texts(row, Contents!);
        return () => Zip(roles(), contents(), row.Position + 1);
    }

    private ChatMessage[] Zip(string[] roles, string[] contents, long row) => roles.Length == contents.Length
        ? [.. roles.Zip(contents, (role, content) => new ChatMessage(role, content))]
        : throw new InvalidOperationException(
            $"Row {row} has {roles.Length} roles in column '{Roles}', but {contents.Length} contents in column '{Contents}'. Give each " +
            "message its role.");

    private ChatMessage[] Parse(string json, long row)
    {
        try
        {
            using var document = JsonDocument.Parse(json);
            return document.RootElement.ValueKind == JsonValueKind.Array
                ? [.. document.RootElement.EnumerateArray().Select((message, i) => Message(message, i + 1))]
                : throw new FormatException($"it is {Describe(document.RootElement)}, not a list");
        }
        catch (Exception e) when (e is JsonException or FormatException or InvalidOperationException) // half of a surrogate pair
        {
            throw new InvalidOperationException(
                $"Row {row} has no conversation in column '{Messages}': {e.Message.TrimEnd('.')}. It begins \"{Texts.Shorten(json)}\". " +
                "Write conversations as [{\"role\": \"user\", \"content\": \"Hello\"}, {\"role\": \"assistant\", \"content\": \"Hi!\"}].", e);
        }
    }

    private static ChatMessage Message(JsonElement message, int number)
    {
        if (message.ValueKind != JsonValueKind.Object)
            throw new FormatException($"message {number} is {Describe(message)}, not an object");
        if (message.TryGetProperty("tool_calls", out var calls) && calls.ValueKind != JsonValueKind.Null)
            throw new FormatException($"message {number} has 'tool_calls', which are not supported; write calls into 'content'");
        return new ChatMessage(Text("role"), Text("content"));

        string Text(string name)
        {
            if (!message.TryGetProperty(name, out var value))
                throw new FormatException($"message {number} has no '{name}'");
            return value.ValueKind == JsonValueKind.String
                ? value.GetString()!
                : throw new FormatException($"the '{name}' of message {number} is {Describe(value)}, not a text");
        }
    }

    private static string Describe(JsonElement value) => value.ValueKind switch
    {
        JsonValueKind.Object => "an object",
        JsonValueKind.Array => "a list",
        JsonValueKind.String => "a text",
        JsonValueKind.Number => "a number",
        JsonValueKind.Null => "null",
        _ => "a Boolean",
    };

    public void Write(BinaryWriter writer)
    {
        foreach (string? name in new[] { Messages, Roles, Contents })
            writer.Write(name ?? "");
    }

    /// <exception cref="FormatException">It is not what <see cref="Write"/> can have written.</exception>
    public static ConversationColumns Read(BinaryReader reader)
    {
        var columns = new ConversationColumns(Name(), Name(), Name());
        return columns.Messages is not null || columns is { Roles: not null, Contents: not null }
            ? columns
            : throw new FormatException("The model names no columns of conversations. The file is damaged; save the model again.");

        string? Name() => reader.ReadString() is { Length: > 0 } name ? name : null;
    }
}
