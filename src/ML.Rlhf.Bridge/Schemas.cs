using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;

namespace ML.Rlhf.Bridge;

/// <summary>Schema shapes and schema errors, made by ML.NET itself: its constructors and its wording are internal.</summary>
internal static class Schemas
{
    /// <summary>The shape of one column: an output column of an estimator's <c>GetOutputSchema</c>.</summary>
    public static SchemaShape.Column Column(string name, DataViewType type)
    {
        SchemaShape.GetColumnTypeShape(type, out var kind, out var itemType, out var isKey);
        return new SchemaShape.Column(name, kind, itemType, isKey, annotations: null);
    }

    /// <summary>The shape of a schema, as a chain of estimators sees it.</summary>
    public static SchemaShape Shape(DataViewSchema schema) => SchemaShape.Create(schema);

    /// <summary>
    /// The columns of <paramref name="input"/>, with <paramref name="columns"/> added, or in place of those of the same name.
    /// </summary>
    public static SchemaShape With(SchemaShape input, params SchemaShape.Column[] columns)
    {
        var result = input.ToDictionary(column => column.Name);
        foreach (var column in columns)
            result[column.Name] = column;
        return new SchemaShape(result.Values);
    }

    /// <summary>"Could not find prompt column 'X'": an <see cref="ArgumentOutOfRangeException"/> for <c>inputSchema</c>.</summary>
    public static Exception NotFound(IExceptionContext context, string role, string column) =>
        context.ExceptSchemaMismatch("inputSchema", role, column);

    /// <summary>"Schema mismatch for prompt column 'X': expected String, got Single": likewise.</summary>
    public static Exception Mismatch(IExceptionContext context, string role, SchemaShape.Column found, DataViewType expected) =>
        context.ExceptSchemaMismatch("inputSchema", role, found.Name, expected.ToString(), found.GetTypeString());
}
