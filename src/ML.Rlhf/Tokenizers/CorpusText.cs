using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;
using ML.Rlhf.Bridge;

namespace ML.Rlhf;

/// <summary>The text column that tokenizers are trained on and applied to.</summary>
internal static class CorpusText
{
    /// <summary>The texts of a column, read once and row by row.</summary>
    public static IEnumerable<string> Read(IExceptionContext context, IDataView data, string columnName)
    {
        RequireColumn(context, Schemas.Shape(data.Schema), columnName);
        return Rows();

        IEnumerable<string> Rows()
        {
            DataViewSchema.Column column = data.Schema[columnName];
            using DataViewRowCursor cursor = data.GetRowCursor([column]);
            var getText = cursor.GetGetter<ReadOnlyMemory<char>>(column);
            ReadOnlyMemory<char> text = default;
            while (cursor.MoveNext())
            {
                getText(ref text);
                yield return text.ToString();
            }
        }
    }

    /// <summary>Throws, in ML.NET's own words, unless the column is there and holds one text in each row.</summary>
    public static void RequireColumn(IExceptionContext context, SchemaShape schema, string columnName)
    {
        SchemaShape.Column column = schema.FirstOrDefault(column => column.Name == columnName);
        if (column.Name is null)
            throw Schemas.NotFound(context, "text", columnName);
        if (column.Kind != SchemaShape.Column.VectorKind.Scalar || column.ItemType is not TextDataViewType)
            throw Schemas.Mismatch(context, "text", column, TextDataViewType.Instance);
    }
}
