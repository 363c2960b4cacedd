using Microsoft.ML;
using Microsoft.ML.Data;

namespace ML.Rlhf;

/// <summary>A column that a transformer computes.</summary>
/// <param name="Name">Its name; a column of the input with this name is hidden.</param>
/// <param name="Type">Its type.</param>
/// <param name="CreateGetter">Makes the <c>ValueGetter&lt;T&gt;</c> that computes the value for the row that the input stands at.</param>
internal sealed record AddedColumn(string Name, DataViewType Type, Func<DataViewRow, Delegate> CreateGetter);

/// <summary>Adds columns to a row, each computed from columns of that row, when it is asked for.</summary>
internal sealed class RowMapper : IRowToRowMapper
{
    private readonly HashSet<int> _sources;
    private readonly IReadOnlyList<AddedColumn> _added;

    /// <param name="inputSchema">The columns there are.</param>
    /// <param name="sources">Those of them that the getters of the added columns read.</param>
    /// <param name="added">The columns to add.</param>
    public RowMapper(DataViewSchema inputSchema, IEnumerable<string> sources, IReadOnlyList<AddedColumn> added)
    {
        InputSchema = inputSchema;
        _sources = [.. sources.Select(name => inputSchema[name].Index)];
        _added = added;

        var builder = new DataViewSchema.Builder();
        builder.AddColumns(inputSchema);
        foreach (AddedColumn column in added)
            builder.AddColumn(column.Name, column.Type);
        OutputSchema = builder.ToSchema();
    }

    public DataViewSchema InputSchema { get; }

    public DataViewSchema OutputSchema { get; }

    public IEnumerable<DataViewSchema.Column> GetDependencies(IEnumerable<DataViewSchema.Column> dependingColumns)
    {
        var needed = new HashSet<int>();
        foreach (DataViewSchema.Column column in dependingColumns)
        {
            if (column.Index < InputSchema.Count)
                needed.Add(column.Index);
            else
                needed.UnionWith(_sources);
        }
        return InputSchema.Where(column => needed.Contains(column.Index));
    }

    public DataViewRow GetRow(DataViewRow input, IEnumerable<DataViewSchema.Column> activeColumns)
    {
        if (input.Schema != InputSchema)
            throw new ArgumentException("The row does not have the schema that this mapper was made for.", nameof(input));
        return new Row(this, input, [.. activeColumns.Select(column => column.Index)]);
    }

    private sealed class Row(RowMapper mapper, DataViewRow input, HashSet<int> active) : DataViewRow
    {
        public override DataViewSchema Schema => mapper.OutputSchema;
        public override long Position => input.Position;
        public override long Batch => input.Batch;

        public override ValueGetter<DataViewRowId> GetIdGetter() => input.GetIdGetter();

        public override bool IsColumnActive(DataViewSchema.Column column) => active.Contains(column.Index);

        public override ValueGetter<TValue> GetGetter<TValue>(DataViewSchema.Column column)
        {
            if (!IsColumnActive(column))
                throw new InvalidOperationException($"Column '{column.Name}' was not among the columns asked for.");
            int inputCount = mapper.InputSchema.Count;
            if (column.Index < inputCount)
                return input.GetGetter<TValue>(mapper.InputSchema[column.Index]);

            Delegate getter = mapper._added[column.Index - inputCount].CreateGetter(input);
            return getter as ValueGetter<TValue> ?? throw new InvalidOperationException(
                $"Column '{column.Name}' is read as {getter.GetType().GenericTypeArguments[0]}, not as {typeof(TValue)}.");
        }

        protected override void Dispose(bool disposing)
        {
            if (disposing)
                input.Dispose();
            base.Dispose(disposing);
        }
    }
}

/// <summary>
/// Data with the columns that a <see cref="RowMapper"/> adds. Lazy; it can shuffle and be read in parallel whenever its input can.
/// </summary>
internal sealed class MappedDataView(IDataView input, RowMapper mapper) : IDataView
{
    public DataViewSchema Schema => mapper.OutputSchema;
    public bool CanShuffle => input.CanShuffle;

    public long? GetRowCount() => input.GetRowCount();

    public DataViewRowCursor GetRowCursor(IEnumerable<DataViewSchema.Column> columnsNeeded, Random? rand = null)
    {
        DataViewSchema.Column[] needed = [.. columnsNeeded];
        return Map(input.GetRowCursor(mapper.GetDependencies(needed), rand), needed);
    }

    public DataViewRowCursor[] GetRowCursorSet(IEnumerable<DataViewSchema.Column> columnsNeeded, int n, Random? rand = null)
    {
        DataViewSchema.Column[] needed = [.. columnsNeeded];
        return Array.ConvertAll(input.GetRowCursorSet(mapper.GetDependencies(needed), n, rand), cursor => Map(cursor, needed));
    }

    private DataViewRowCursor Map(DataViewRowCursor cursor, DataViewSchema.Column[] needed) =>
        new MappedCursor(cursor, mapper.GetRow(cursor, needed));
}

/// <summary>Moves like the input's cursor; everything else is the mapped row's.</summary>
internal sealed class MappedCursor(DataViewRowCursor input, DataViewRow row) : DataViewRowCursor
{
    public override DataViewSchema Schema => row.Schema;
    public override long Position => row.Position;
    public override long Batch => row.Batch;

    public override bool MoveNext() => input.MoveNext();

    public override ValueGetter<DataViewRowId> GetIdGetter() => row.GetIdGetter();

    public override bool IsColumnActive(DataViewSchema.Column column) => row.IsColumnActive(column);

    public override ValueGetter<TValue> GetGetter<TValue>(DataViewSchema.Column column) => row.GetGetter<TValue>(column);

    protected override void Dispose(bool disposing)
    {
        if (disposing)
            row.Dispose(); // and with it the input's cursor
        base.Dispose(disposing);
    }
}
