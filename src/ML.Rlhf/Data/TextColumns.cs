using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;
using ML.Rlhf.Bridge;

namespace ML.Rlhf;

/// <summary>Text columns of any <see cref="IDataView"/>, checked and read: what trainers know of ML.NET's cursors.</summary>
internal static class TextColumns
{
    /// <summary>Checks, in an estimator's <c>GetOutputSchema</c>, that a column is there and holds one text per row.</summary>
    /// <param name="host">The estimator's host.</param>
    /// <param name="schema">The input's shape.</param>
    /// <param name="role">What the column is for, in lower case: "prompt".</param>
    /// <param name="column">The column's name.</param>
    /// <exception cref="ArgumentOutOfRangeException">
    /// In ML.NET's words: "Could not find prompt column 'X'", "Schema mismatch for …".
    /// </exception>
    public static void RequireText(IExceptionContext host, SchemaShape schema, string role, string column)
    {
        var found = schema.Where(candidate => candidate.Name == column).Take(1).ToArray();
        if (found.Length == 0)
            throw Schemas.NotFound(host, role, column);
        if (found[0].Kind != SchemaShape.Column.VectorKind.Scalar || found[0].ItemType is not TextDataViewType)
            throw Schemas.Mismatch(host, role, found[0], TextDataViewType.Instance);
    }

    /// <summary>
    /// The same for data: at the start of <c>Fit</c>, which need not have called <c>GetOutputSchema</c>, and in a transformer.
    /// </summary>
    /// <inheritdoc cref="RequireText(IExceptionContext, SchemaShape, string, string)"/>
    public static void RequireText(IExceptionContext host, DataViewSchema schema, string role, string column) =>
        RequireText(host, Schemas.Shape(schema), role, column);

    /// <summary>
    /// Streams the rows of text columns, one array per row, in the order of <paramref name="columns"/>. Nothing else is read.
    /// </summary>
    /// <param name="data">The data.</param>
    /// <param name="columns">Names of columns that <c>RequireText</c> let pass.</param>
    /// <param name="cancellation">Looked at before each row.</param>
    /// <exception cref="OperationCanceledException">Reading was cancelled.</exception>
    public static IEnumerable<string[]> Read(IDataView data, IReadOnlyList<string> columns, CancellationToken cancellation = default)
    {
        var schemaColumns = columns.Select(name => data.Schema[name]).ToArray();
        using var cursor = data.GetRowCursor(schemaColumns);
        var getters = Array.ConvertAll(schemaColumns, column => cursor.GetGetter<ReadOnlyMemory<char>>(column));
        while (MoveNext(cursor, cancellation))
        {
            var row = new string[getters.Length];
            for (var i = 0; i < row.Length; i++)
            {
                var text = default(ReadOnlyMemory<char>);
                getters[i](ref text);
                row[i] = text.ToString();
            }
            yield return row;
        }
    }

    private static bool MoveNext(DataViewRowCursor cursor, CancellationToken cancellation)
    {
        cancellation.ThrowIfCancellationRequested();
        return cursor.MoveNext();
    }
}
