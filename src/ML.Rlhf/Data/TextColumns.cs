using System.Numerics;
using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;
using ML.Rlhf.Bridge;

namespace ML.Rlhf;

/// <summary>
/// Columns of any <see cref="IDataView"/>, text and the numbers beside it, checked and read: what trainers know of ML.NET's cursors.
/// </summary>
internal static class TextColumns
{
    private static readonly Dictionary<DataViewType, Func<DataViewRow, string, Func<double[]>>> s_numbers = new()
    {
        [NumberDataViewType.Single] = Numbers<float>,
        [NumberDataViewType.Double] = Numbers<double>,
        [NumberDataViewType.Int32] = Numbers<int>,
        [NumberDataViewType.Int64] = Numbers<long>,
    };

    /// <summary>Checks, in an estimator's <c>GetOutputSchema</c>, that a column is there and holds one text per row.</summary>
    /// <param name="host">The estimator's host.</param>
    /// <param name="schema">The input's shape.</param>
    /// <param name="role">What the column is for, in lower case: "prompt".</param>
    /// <param name="column">The column's name.</param>
    /// <exception cref="ArgumentOutOfRangeException">
    /// In ML.NET's words: "Could not find prompt column 'X'", "Schema mismatch for …".
    /// </exception>
    public static void RequireText(IExceptionContext host, SchemaShape schema, string role, string column) =>
        Require(host, schema, role, column, TextDataViewType.Instance, isVector: false, type => type is TextDataViewType);

    /// <summary>The same for a column with a vector of texts per row.</summary>
    /// <inheritdoc cref="RequireText(IExceptionContext, SchemaShape, string, string)"/>
    public static void RequireTexts(IExceptionContext host, SchemaShape schema, string role, string column) =>
        Require(host, schema, role, column, new VectorDataViewType(TextDataViewType.Instance), isVector: true,
            type => type is TextDataViewType);

    /// <summary>The same for a column with a vector of numbers per row: Single, Double, Int32 or Int64.</summary>
    /// <inheritdoc cref="RequireText(IExceptionContext, SchemaShape, string, string)"/>
    public static void RequireNumbers(IExceptionContext host, SchemaShape schema, string role, string column) =>
        Require(host, schema, role, column, new VectorDataViewType(NumberDataViewType.Single), isVector: true,
            type => s_numbers.ContainsKey(type));

    /// <summary>The same for a column with one Single per row.</summary>
    /// <inheritdoc cref="RequireText(IExceptionContext, SchemaShape, string, string)"/>
    public static void RequireSingle(IExceptionContext host, SchemaShape schema, string role, string column) =>
        Require(host, schema, role, column, NumberDataViewType.Single, isVector: false, type => type == NumberDataViewType.Single);

    /// <summary>The same for a column with one Boolean per row.</summary>
    /// <inheritdoc cref="RequireText(IExceptionContext, SchemaShape, string, string)"/>
    public static void RequireBoolean(IExceptionContext host, SchemaShape schema, string role, string column) =>
        Require(host, schema, role, column, BooleanDataViewType.Instance, isVector: false, type => type is BooleanDataViewType);

    private static void Require(
        IExceptionContext host, SchemaShape schema, string role, string column, DataViewType expected, bool isVector,
        Predicate<DataViewType> isItem)
    {
        var found = schema.Where(candidate => candidate.Name == column).Take(1).ToArray();
        if (found.Length == 0)
            throw Schemas.NotFound(host, role, column);
        if (found[0].Kind != SchemaShape.Column.VectorKind.Scalar != isVector || found[0].IsKey || !isItem(found[0].ItemType))
            throw Schemas.Mismatch(host, role, found[0], expected);
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
    /// <param name="checkCanceled">Called before each row; throws to stop.</param>
    /// <exception cref="OperationCanceledException">Reading was cancelled.</exception>
    public static IEnumerable<string[]> Read(IDataView data, IReadOnlyList<string> columns, Action? checkCanceled = null)
    {
        using var cursor = data.GetRowCursor(columns.Select(name => data.Schema[name]));
        var texts = columns.Select(name => Text(cursor, name)).ToArray();
        while (MoveNext(cursor, checkCanceled))
            yield return Array.ConvertAll(texts, text => text());
    }

    /// <summary>Streams text columns, and with each row what a Boolean column says of it.</summary>
    /// <inheritdoc cref="Read(IDataView, IReadOnlyList{string}, Action?)"/>
    /// <param name="data">The data.</param>
    /// <param name="columns">Names of columns that <c>RequireText</c> let pass.</param>
    /// <param name="labelColumn">Name of a column that <c>RequireBoolean</c> let pass.</param>
    /// <param name="checkCanceled">Called before each row; throws to stop.</param>
    public static IEnumerable<(string[] Texts, bool Label)> ReadLabeled(
        IDataView data, IReadOnlyList<string> columns, string labelColumn, Action? checkCanceled = null)
    {
        using var cursor = data.GetRowCursor([.. columns.Select(name => data.Schema[name]), data.Schema[labelColumn]]);
        var texts = columns.Select(name => Text(cursor, name)).ToArray();
        var labels = cursor.GetGetter<bool>(data.Schema[labelColumn]);
        while (MoveNext(cursor, checkCanceled))
        {
            bool label = false;
            labels(ref label);
            yield return (Array.ConvertAll(texts, text => text()), label);
        }
    }

    /// <summary>Reads the text of a column in the row that a cursor stands at.</summary>
    public static Func<string> Text(DataViewRow row, string column)
    {
        var getter = row.GetGetter<ReadOnlyMemory<char>>(row.Schema[column]);
        return () =>
        {
            ReadOnlyMemory<char> text = default;
            getter(ref text);
            return text.ToString();
        };
    }

    /// <summary>Reads the texts of a column that <c>RequireTexts</c> let pass.</summary>
    public static Func<string[]> Texts(DataViewRow row, string column) =>
        Vector<ReadOnlyMemory<char>, string>(row, column, text => text.ToString());

    /// <summary>Reads the numbers of a column that <c>RequireNumbers</c> let pass.</summary>
    public static Func<double[]> Numbers(DataViewRow row, string column) =>
        s_numbers[((VectorDataViewType)row.Schema[column].Type).ItemType](row, column);

    /// <summary>Reads the number of a column that <c>RequireSingle</c> let pass.</summary>
    public static Func<float> Single(DataViewRow row, string column)
    {
        var getter = row.GetGetter<float>(row.Schema[column]);
        return () =>
        {
            float number = 0;
            getter(ref number);
            return number;
        };
    }

    private static Func<double[]> Numbers<T>(DataViewRow row, string column) where T : INumber<T> =>
        Vector<T, double>(row, column, double.CreateChecked);

    private static Func<TResult[]> Vector<TItem, TResult>(DataViewRow row, string column, Converter<TItem, TResult> convert)
    {
        var getter = row.GetGetter<VBuffer<TItem>>(row.Schema[column]);
        VBuffer<TItem> vector = default;
        return () =>
        {
            getter(ref vector);
            return [.. vector.DenseValues().Select(item => convert(item))];
        };
    }

    /// <summary>Moves to the next row, if there is one.</summary>
    /// <exception cref="OperationCanceledException">Reading was cancelled.</exception>
    public static bool MoveNext(DataViewRowCursor cursor, Action? checkCanceled)
    {
        checkCanceled?.Invoke();
        return cursor.MoveNext();
    }
}
