using System.Reflection;
using System.Text.Json.Serialization;
using Microsoft.ML.Data;

namespace ML.Rlhf;

/// <summary>A column of a JSON Lines loader.</summary>
/// <param name="Name">The column's name.</param>
/// <param name="Field">The name of the field in the JSON.</param>
/// <param name="Kind">What the field holds: String, Single, Double, Int32, Int64 or Boolean.</param>
/// <param name="Length">Null for one value, 0 for an array of any length, n for an array of n.</param>
internal sealed record JsonLinesColumn(string Name, string Field, DataKind Kind, int? Length)
{
    private static readonly (PrimitiveDataViewType Type, DataKind Kind)[] s_kinds =
    [
        (TextDataViewType.Instance, DataKind.String),
        (NumberDataViewType.Single, DataKind.Single),
        (NumberDataViewType.Double, DataKind.Double),
        (NumberDataViewType.Int32, DataKind.Int32),
        (NumberDataViewType.Int64, DataKind.Int64),
        (BooleanDataViewType.Instance, DataKind.Boolean),
    ];

    /// <summary>Whether this can be a column at all: false for damaged files only.</summary>
    public bool IsValid => Name.Length > 0 && Field.Length > 0 && Length is null or >= 0 && s_kinds.Any(pair => pair.Kind == Kind);

    private PrimitiveDataViewType ItemType => s_kinds.Single(pair => pair.Kind == Kind).Type;

    /// <summary>The column's type in the schema.</summary>
    public DataViewType Type => Length is int length ? new VectorDataViewType(ItemType, length) : ItemType;

    /// <summary>What the field should be, in words.</summary>
    public string Expectation => Kind switch
    {
        DataKind.String => "string",
        DataKind.Boolean => "boolean",
        DataKind.Int32 => "32-bit integer",
        DataKind.Int64 => "64-bit integer",
        _ => "number",
    } + (Length == null ? "" : " array");

    /// <summary>The columns of a row class. ML.NET's own rules for such classes hold, attributes included.</summary>
    /// <exception cref="ArgumentException">A member has a type that is not read from JSON, or two members share a field.</exception>
    public static JsonLinesColumn[] OfType(Type rowType)
    {
        var columns = SchemaDefinition.Create(rowType).Select(column => OfMember(rowType, column)).ToArray();
        if (columns.Length == 0)
            throw new ArgumentException($"'{rowType.Name}' has no public property or field that could be a column.");
        var shared = columns.GroupBy(column => column.Field, StringComparer.OrdinalIgnoreCase).FirstOrDefault(group => group.Count() > 1);
        if (shared != null)
        {
            var names = string.Join(" and ", shared.Select(column => $"'{column.Name}'"));
            throw new ArgumentException(
                $"Columns {names} of '{rowType.Name}' are both read from the JSON field '{shared.Key}' (case aside). " +
                "Name them apart with [JsonPropertyName], or leave one out with [NoColumn].");
        }
        return columns;
    }

    private static JsonLinesColumn OfMember(Type rowType, SchemaDefinition.Column column)
    {
        var member = rowType.GetMember(column.MemberName, BindingFlags.Public | BindingFlags.Instance).First();
        var vector = column.ColumnType as VectorDataViewType;
        var itemType = vector?.ItemType ?? column.ColumnType;
        foreach (var (type, kind) in s_kinds)
        {
            if (type.Equals(itemType))
            {
                var field = member.GetCustomAttribute<JsonPropertyNameAttribute>()?.Name ?? member.Name;
                return new(column.ColumnName, field, kind, vector?.Size);
            }
        }
        throw new ArgumentException(
            $"'{rowType.Name}.{member.Name}' is a column of type {column.ColumnType}, which is not read from JSON Lines. " +
            "Use string, float, double, int, long, bool or arrays of them, or leave the member out with [NoColumn].");
    }
}
