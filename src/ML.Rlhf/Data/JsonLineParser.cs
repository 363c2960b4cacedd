using System.Text;
using System.Text.Json;
using System.Text.Unicode;

namespace ML.Rlhf;

/// <summary>
/// Turns a line into the values of a row. Every column is validated, but only active ones keep their values: which rows there are must not
/// depend on which columns are asked for.
/// </summary>
internal sealed class JsonLineParser
{
    /// <summary>Deeper than any data is, and shallow enough for whoever reads the values later.</summary>
    private const int MaximumDepth = 64;

    private readonly JsonField[] _fields;

    public JsonLineParser(IReadOnlyList<JsonLinesColumn> columns, Func<int, bool> isActive)
    {
        _fields = [.. columns.Select((column, index) => JsonField.Create(column, isActive(index)))];
        Expectation = Describe(columns);
    }

    /// <summary>What a line should be, in words: "a JSON object with string fields 'Prompt' and 'Completion'".</summary>
    public string Expectation { get; }

    public bool IsActive(int column) => _fields[column].IsActive;

    /// <summary>A <c>ValueGetter</c> of the column's type, for the line that was parsed last.</summary>
    public Delegate Getter(int column) => _fields[column].Getter;

    /// <summary>Reads a line.</summary>
    /// <returns>Null, or what is wrong with it: a clause with its full stop.</returns>
    public string? Parse(ReadOnlySpan<byte> line)
    {
        Clear();
        try
        {
            if (!Utf8.IsValid(line))
                return "the line is not UTF-8 text. Save the file as UTF-8, and unpack or decrypt it where it is no text at all.";
            return ReadObject(line) ?? _fields.Select(field => field.Problem).FirstOrDefault(problem => problem != null);
        }
        catch (JsonException e)
        {
            return Describe(e, line);
        }
        catch (InvalidOperationException)
        {
            return "the line has half of a surrogate pair (\\uD800 to \\uDFFF), which is no text."; // all that GetString objects to
        }
    }

    /// <summary>Forgets the last line: getters throw.</summary>
    public void Clear()
    {
        foreach (var field in _fields)
            field.Clear();
    }

    private string? ReadObject(ReadOnlySpan<byte> line)
    {
        var reader = new Utf8JsonReader(line, new JsonReaderOptions { MaxDepth = MaximumDepth });
        reader.Read();
        if (reader.TokenType != JsonTokenType.StartObject)
        {
            var found = JsonField.Describe(ref reader);
            reader.Skip();
            reader.Read(); // throws if something follows
            return $"the line is {found}.";
        }
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            var field = Find(ref reader, out var exact);
            reader.Read();
            field?.Read(reader, exact);
            reader.Skip();
        }
        reader.Read(); // throws if something follows the object
        return null;
    }

    private JsonField? Find(ref Utf8JsonReader reader, out bool exact)
    {
        exact = true;
        foreach (var field in _fields)
        {
            if (reader.ValueTextEquals(field.Name))
                return field;
        }
        exact = false;
        var name = reader.GetString();
        return Array.Find(_fields, field => field.Name.Equals(name, StringComparison.OrdinalIgnoreCase));
    }

    /// <param name="e">What the reader says. Its message begins with the problem; its own position counts lines within the line.</param>
    /// <param name="line">The line.</param>
    private static string Describe(JsonException e, ReadOnlySpan<byte> line)
    {
        var problem = e.Message.Split(" LineNumber:")[0].TrimEnd('.');
        if (problem.Contains($"maximum configured depth of {MaximumDepth}", StringComparison.Ordinal))
            return $"the line is nested more than {MaximumDepth} levels deep (byte {e.BytePositionInLine + 1}). Flatten it.";
        var endsEarly = line.TrimStart(" \t"u8).StartsWith("{"u8) && !line.TrimEnd(" \t"u8).EndsWith("}"u8);
        return $"the line is not JSON: {problem} (byte {e.BytePositionInLine + 1})." +
            (endsEarly ? " It ends too early: each object must be on one line, and the file must be whole." : "");
    }

    private static string Describe(IEnumerable<JsonLinesColumn> columns)
    {
        var kinds = columns.GroupBy(column => column.Expectation, column => $"'{column.Field}'").Select(fields => fields.Count() == 1
            ? $"a {fields.Key} field {fields.Single()}"
            : $"{fields.Key} fields {And([.. fields])}");
        return $"a JSON object with {And([.. kinds])}";
    }

    private static string And(string[] items) =>
        items.Length == 1 ? items[0] : $"{string.Join(", ", items[..^1])} and {items[^1]}";
}
