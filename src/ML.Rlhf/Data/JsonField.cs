using System.Text;
using System.Text.Json;
using Microsoft.ML;
using Microsoft.ML.Data;

namespace ML.Rlhf;

/// <summary>Reads one item from the token at the reader; false if the token is of another kind, or out of range.</summary>
/// <param name="reader">The reader; it stays at the token.</param>
/// <param name="isActive">Whether the value is wanted, beyond whether it is right.</param>
/// <param name="item">The value.</param>
internal delegate bool ItemReader<T>(ref Utf8JsonReader reader, bool isActive, out T item);

/// <summary>One column's place in the current line: its value, or what is wrong with it.</summary>
internal abstract class JsonField(JsonLinesColumn column, bool isActive)
{
    private Match _match;
    private string? _problem;

    private enum Match
    {
        None,
        IgnoringCase,
        Exact,
    }

    public string Name => column.Field;

    public bool IsActive => isActive;

    /// <inheritdoc cref="JsonLinesColumn.Length"/>
    protected int? Length => column.Length;

    /// <summary>A <c>ValueGetter</c> of the column's type.</summary>
    public abstract Delegate Getter { get; }

    /// <summary>What is wrong with the field, once all of the line was read; null if nothing is.</summary>
    public string? Problem => _match == Match.None ? $"field '{Name}' is missing." : _problem;

    public static JsonField Create(JsonLinesColumn column, bool isActive) => column.Kind switch
    {
        DataKind.String => Create<ReadOnlyMemory<char>>(column, isActive, column.Length is null ? ReadTextOrList : ReadText),
        DataKind.Boolean => Create<bool>(column, isActive, ReadBoolean),
        DataKind.Single => Create<float>(column, isActive, ReadSingle),
        DataKind.Double => Create<double>(column, isActive, ReadDouble),
        DataKind.Int32 => Create<int>(column, isActive, ReadInt32),
        DataKind.Int64 => Create<long>(column, isActive, ReadInt64),
        _ => throw new FormatException($"JSON Lines column '{column.Name}' has the unknown kind {column.Kind}."), // a broken model file
    };

    /// <summary>
    /// Reads the field's value. A field that is named exactly wins over others; of two alike nobody can say which was meant.
    /// </summary>
    /// <param name="value">A reader at the value's first token; a copy, so that the caller can skip the value whatever is found.</param>
    /// <param name="isExact">Whether the field's name matched in case as well.</param>
    public void Read(Utf8JsonReader value, bool isExact)
    {
        var match = isExact ? Match.Exact : Match.IgnoringCase;
        if (match < _match)
            return;
        _problem = match == _match ? $"field '{Name}' is there more than once." : ReadValue(ref value);
        _match = match;
    }

    /// <summary>Forgets the line.</summary>
    public void Clear() => _match = Match.None;

    /// <summary>A token in words, for a message: "a string", "the number 3.5".</summary>
    public static string Describe(ref Utf8JsonReader reader) => reader.TokenType switch
    {
        JsonTokenType.String => "a string",
        JsonTokenType.Number => $"the number {Encoding.UTF8.GetString(reader.ValueSpan[..Math.Min(reader.ValueSpan.Length, 32)])}",
        JsonTokenType.True => "true",
        JsonTokenType.False => "false",
        JsonTokenType.StartObject => "an object",
        JsonTokenType.StartArray => "an array",
        _ => "null",
    };

    /// <returns>Null, or what is wrong with the value.</returns>
    protected abstract string? ReadValue(ref Utf8JsonReader reader);

    /// <exception cref="InvalidOperationException">A getter was called before the first row or after the last one.</exception>
    protected void RequireRow()
    {
        if (_match == Match.None)
        {
            throw new InvalidOperationException(
                $"Column '{column.Name}' was read where there is no row: before MoveNext, or after it returned false.");
        }
    }

    private static JsonField Create<T>(JsonLinesColumn column, bool isActive, ItemReader<T> read) =>
        column.Length == null ? new JsonScalar<T>(column, isActive, read) : new JsonArray<T>(column, isActive, read);

    /// <summary>Inactive text is decoded only if it has escapes: nothing else could still be wrong with it.</summary>
    private static bool ReadText(ref Utf8JsonReader reader, bool isActive, out ReadOnlyMemory<char> item)
    {
        var isText = reader.TokenType == JsonTokenType.String;
        item = isText && (isActive || reader.ValueIsEscaped) ? reader.GetString().AsMemory() : default;
        return isText;
    }

    /// <summary>
    /// A text, or a list of objects as the JSON that it is: ML.NET has no column type for conversations, and files have them like this.
    /// </summary>
    private static bool ReadTextOrList(ref Utf8JsonReader reader, bool isActive, out ReadOnlyMemory<char> item)
    {
        var list = reader; // the caller's reader stays at the token
        if (list.TokenType != JsonTokenType.StartArray || !list.Read() || list.TokenType != JsonTokenType.StartObject)
            return ReadText(ref reader, isActive, out item);
        list = reader;
        using var json = JsonDocument.ParseValue(ref list);
        item = isActive ? json.RootElement.GetRawText().AsMemory() : default;
        return true;
    }

    private static bool ReadBoolean(ref Utf8JsonReader reader, bool isActive, out bool item)
    {
        item = reader.TokenType == JsonTokenType.True;
        return item || reader.TokenType == JsonTokenType.False;
    }

    private static bool ReadSingle(ref Utf8JsonReader reader, bool isActive, out float item)
    {
        item = 0;
        return reader.TokenType == JsonTokenType.Number && reader.TryGetSingle(out item);
    }

    private static bool ReadDouble(ref Utf8JsonReader reader, bool isActive, out double item)
    {
        item = 0;
        return reader.TokenType == JsonTokenType.Number && reader.TryGetDouble(out item);
    }

    private static bool ReadInt32(ref Utf8JsonReader reader, bool isActive, out int item)
    {
        item = 0;
        return reader.TokenType == JsonTokenType.Number && reader.TryGetInt32(out item);
    }

    private static bool ReadInt64(ref Utf8JsonReader reader, bool isActive, out long item)
    {
        item = 0;
        return reader.TokenType == JsonTokenType.Number && reader.TryGetInt64(out item);
    }
}

/// <summary>A field with one value.</summary>
internal sealed class JsonScalar<T>(JsonLinesColumn column, bool isActive, ItemReader<T> read) : JsonField(column, isActive)
{
    private T _value = default!;

    public override Delegate Getter => (ValueGetter<T>)((ref T value) =>
    {
        RequireRow();
        value = _value;
    });

    protected override string? ReadValue(ref Utf8JsonReader reader) =>
        read(ref reader, IsActive, out _value) ? null : $"field '{Name}' is {Describe(ref reader)}.";
}

/// <summary>A field with an array, of a length that is fixed or not.</summary>
internal sealed class JsonArray<T>(JsonLinesColumn column, bool isActive, ItemReader<T> read) : JsonField(column, isActive)
{
    private readonly List<T> _items = [];

    public override Delegate Getter => (ValueGetter<VBuffer<T>>)((ref VBuffer<T> value) =>
    {
        RequireRow();
        var editor = VBufferEditor.Create(ref value, _items.Count);
        _items.CopyTo(editor.Values);
        value = editor.Commit();
    });

    protected override string? ReadValue(ref Utf8JsonReader reader)
    {
        if (reader.TokenType != JsonTokenType.StartArray)
            return $"field '{Name}' is {Describe(ref reader)}.";
        _items.Clear();
        while (reader.Read() && reader.TokenType != JsonTokenType.EndArray)
        {
            if (!read(ref reader, IsActive, out var item))
                return $"field '{Name}' has {Describe(ref reader)} at index {_items.Count}.";
            _items.Add(item);
        }
        return Length > 0 && _items.Count != Length
            ? $"field '{Name}' has {_items.Count} items instead of {Length}."
            : null;
    }
}
