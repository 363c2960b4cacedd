using System.Reflection;
using System.Runtime.CompilerServices;
using Microsoft.ML;
using Microsoft.ML.Data;

namespace ML.Rlhf;

/// <summary>A column that holds a part of what was computed for a row.</summary>
/// <typeparam name="T">What is computed for a row.</typeparam>
/// <param name="Name">Its name.</param>
/// <param name="Type">Its type.</param>
/// <param name="CreateGetter">From what gives the current row's result to the <c>ValueGetter</c> of ML.NET's type.</param>
internal sealed record ComputedColumn<T>(string Name, DataViewType Type, Func<Func<T>, Delegate> CreateGetter)
{
    /// <typeparam name="TValue">
    /// What ML.NET stores for the column's type: a float, or <c>ReadOnlyMemory&lt;char&gt;</c> for text.
    /// </typeparam>
    public static ComputedColumn<T> Of<TValue>(string name, DataViewType type, Func<T, TValue> select) =>
        new(name, type, current => (ValueGetter<TValue>)((ref TValue value) => value = select(current())));
}

/// <summary>A <see cref="BatchedColumns{T}"/> of any type.</summary>
internal interface IBatchedColumns
{
    /// <summary>The data with the columns.</summary>
    IDataView AddTo(IDataView input);

    /// <summary>The mapping for single rows, which a prediction engine uses.</summary>
    RowMapper Map(DataViewSchema inputSchema);
}

/// <summary>
/// Columns that a model computes from text columns, many rows at a time. Reading is lazy: a cursor reads some rows ahead, and runs the
/// model, once for all columns, when one of the first of them is asked for. Whoever asks for other columns only never runs it.
/// </summary>
/// <remarks>
/// The first time a cursor reads one batch ahead, so that the first rows come soon, and then twice as many each time, up to
/// <see cref="LargestWindow"/>: from many rows the model makes batches of similar length, with little padding.
/// </remarks>
/// <typeparam name="T">What the model gives for a row.</typeparam>
/// <param name="Sources">The columns that it is computed from: texts, or vectors of them.</param>
/// <param name="BatchSize">Rows that the model takes at once.</param>
/// <param name="Compute">
/// From the sources' texts of some rows, those of a vector one after another, to one result per row. It makes batches of them.
/// </param>
/// <param name="Columns">The columns to add.</param>
internal sealed record BatchedColumns<T>(
    string[] Sources, int BatchSize, Func<IReadOnlyList<string[]>, IReadOnlyList<T>> Compute, params ComputedColumn<T>[] Columns)
    : IBatchedColumns
{
    /// <summary>One column, whose value is the whole result.</summary>
    public BatchedColumns(
        string name, DataViewType type, string[] sources, int batchSize, Func<IReadOnlyList<string[]>, IReadOnlyList<T>> compute)
        : this(sources, batchSize, compute, ComputedColumn<T>.Of(name, type, result => result))
    {
    }

    /// <summary>The most rows that a cursor reads ahead: enough for batches of nearly one length, and a short wait.</summary>
    public int LargestWindow => 8 * BatchSize;

    public IDataView AddTo(IDataView input) => new BatchedDataView<T>(input, this, Map(input.Schema));

    public RowMapper Map(DataViewSchema inputSchema)
    {
        var results = new ConditionalWeakTable<DataViewRow, SingleRow>(); // the getters of one row share what they compute
        return new(inputSchema, Sources, [.. Columns.Select(column => new AddedColumn(
            column.Name, column.Type, row => column.CreateGetter(results.GetValue(row, r => new SingleRow(this, r)).Compute)))]);
    }

    /// <summary>Reads a row's sources in another way than their texts one after another; null for that way.</summary>
    public Func<DataViewRow, Func<string[]>>? ReadSources { get; init; }

    /// <summary>Reads the sources of the row that a cursor stands at.</summary>
    public Func<string[]> CreateReader(DataViewRow row)
    {
        if (ReadSources is not null)
            return ReadSources(row);
        var readers = Array.ConvertAll(Sources, Func<string[]> (source) =>
        {
            if (row.Schema[source].Type is VectorDataViewType)
                return TextColumns.Texts(row, source);
            var text = TextColumns.Text(row, source);
            return () => [text()];
        });
        return () => [.. readers.SelectMany(read => read())];
    }

    /// <summary>Runs the model on one row at a time, and not again until the texts change.</summary>
    private sealed class SingleRow(BatchedColumns<T> columns, DataViewRow row)
    {
        private readonly Func<string[]> _read = columns.CreateReader(row);
        private string[]? _sources;
        private T _result = default!;

        public T Compute()
        {
            string[] sources = _read();
            if (_sources is null || !sources.AsSpan().SequenceEqual(_sources))
            {
                _result = columns.Compute([sources])[0];
                _sources = sources;
            }
            return _result;
        }
    }
}

/// <summary>Data with a <see cref="BatchedColumns{T}"/>.</summary>
internal sealed class BatchedDataView<T>(IDataView input, BatchedColumns<T> columns, RowMapper mapper) : IDataView
{
    public DataViewSchema Schema => mapper.OutputSchema;

    public bool CanShuffle => input.CanShuffle;

    public long? GetRowCount() => input.GetRowCount();

    public DataViewRowCursor GetRowCursor(IEnumerable<DataViewSchema.Column> columnsNeeded, Random? rand = null)
    {
        DataViewSchema.Column[] needed = [.. columnsNeeded];
        var cursor = input.GetRowCursor(mapper.GetDependencies(needed), rand);
        bool runsModel = needed.Any(c => c.Index >= input.Schema.Count);
        return runsModel ? new BatchCursor(cursor, columns, mapper, needed) : new MappedCursor(cursor, mapper.GetRow(cursor, needed));
    }

    /// <summary>One cursor: the model is the bottleneck, and it runs on all cores by itself.</summary>
    public DataViewRowCursor[] GetRowCursorSet(IEnumerable<DataViewSchema.Column> columnsNeeded, int n, Random? rand = null) =>
        [GetRowCursor(columnsNeeded, rand)];

    private sealed class BatchCursor : DataViewRowCursor
    {
        private readonly DataViewRowCursor _input;
        private readonly BatchedColumns<T> _columns;
        private readonly RowMapper _mapper;
        private readonly HashSet<int> _active;
        private readonly Dictionary<int, Buffer> _passed; // input columns that are handed through, by index
        private readonly Func<string[]> _readSources;
        private readonly ValueGetter<DataViewRowId> _getId;
        private readonly List<string[]> _sources;
        private readonly DataViewRowId[] _ids;
        private IReadOnlyList<T>? _computed;
        private int _window; // rows to read ahead the next time
        private int _current = -1;
        private long _position = -1;
        private bool _inputEnded;

        public BatchCursor(DataViewRowCursor input, BatchedColumns<T> columns, RowMapper mapper, DataViewSchema.Column[] needed)
        {
            (_input, _columns, _mapper) = (input, columns, mapper);
            _active = [.. needed.Select(c => c.Index)];
            _passed = needed.Where(c => c.Index < mapper.InputSchema.Count)
                .ToDictionary(c => c.Index, c => Buffer.Create(input, mapper.InputSchema[c.Index], columns.LargestWindow));
            _readSources = columns.CreateReader(input);
            _getId = input.GetIdGetter();
            _sources = [];
            _ids = new DataViewRowId[columns.LargestWindow];
            _window = columns.BatchSize;
        }

        public override DataViewSchema Schema => _mapper.OutputSchema;

        public override long Position => _position;

        public override long Batch => 0;

        public override bool MoveNext()
        {
            if (_current + 1 >= _sources.Count && !ReadWindow())
            {
                _position = -1;
                return false;
            }
            _current++;
            _position++;
            return true;
        }

        private bool ReadWindow()
        {
            _sources.Clear();
            _computed = null;
            _current = -1;
            while (!_inputEnded && _sources.Count < _window)
            {
                if (!_input.MoveNext())
                {
                    _inputEnded = true;
                    break;
                }
                _getId(ref _ids[_sources.Count]);
                foreach (var buffer in _passed.Values)
                    buffer.Fill(_sources.Count);
                _sources.Add(_readSources());
            }
            _window = Math.Min(2 * _window, _columns.LargestWindow);
            return _sources.Count > 0;
        }

        private T Compute()
        {
            CheckPosition();
            _computed ??= _columns.Compute(_sources);
            return _computed[_current];
        }

        private int CurrentSlot()
        {
            CheckPosition();
            return _current;
        }

        private void CheckPosition()
        {
            if (_position < 0)
                throw new InvalidOperationException("The cursor stands at no row: call MoveNext first, and stop when it returns false.");
        }

        public override bool IsColumnActive(DataViewSchema.Column column) => _active.Contains(column.Index);

        public override ValueGetter<DataViewRowId> GetIdGetter() => (ref DataViewRowId id) => id = _ids[CurrentSlot()];

        public override ValueGetter<TValue> GetGetter<TValue>(DataViewSchema.Column column)
        {
            if (!IsColumnActive(column))
                throw new InvalidOperationException($"Column '{column.Name}' was not among the columns asked for.");
            Delegate getter = _passed.TryGetValue(column.Index, out var buffer)
                ? buffer.CreateGetter(CurrentSlot)
                : _columns.Columns[column.Index - _mapper.InputSchema.Count].CreateGetter(Compute);
            return getter as ValueGetter<TValue> ?? throw new InvalidOperationException(
                $"Column '{column.Name}' is read as {getter.GetType().GenericTypeArguments[0]}, not as {typeof(TValue)}.");
        }

        protected override void Dispose(bool disposing)
        {
            if (disposing)
                _input.Dispose();
            base.Dispose(disposing);
        }
    }

    /// <summary>The values of one input column for the rows of a window.</summary>
    private abstract class Buffer
    {
        public abstract void Fill(int slot);

        public abstract Delegate CreateGetter(Func<int> slot);

        public static Buffer Create(DataViewRow row, DataViewSchema.Column column, int size)
        {
            var raw = column.Type.RawType;
            bool vector = raw.IsGenericType && raw.GetGenericTypeDefinition() == typeof(VBuffer<>);
            string method = vector ? nameof(CreateVectors) : nameof(CreateScalars);
            var item = vector ? raw.GetGenericArguments()[0] : raw;
            return (Buffer)typeof(Buffer).GetMethod(method, BindingFlags.Static | BindingFlags.NonPublic)!
                .MakeGenericMethod(item).Invoke(null, [row, column, size])!;
        }

        private static ScalarBuffer<TItem> CreateScalars<TItem>(DataViewRow row, DataViewSchema.Column column, int size) =>
            new(row.GetGetter<TItem>(column), size);

        private static VectorBuffer<TItem> CreateVectors<TItem>(DataViewRow row, DataViewSchema.Column column, int size) =>
            new(row.GetGetter<VBuffer<TItem>>(column), size);
    }

    private sealed class ScalarBuffer<TItem>(ValueGetter<TItem> read, int size) : Buffer
    {
        private readonly TItem[] _values = new TItem[size];

        public override void Fill(int slot) => read(ref _values[slot]);

        public override Delegate CreateGetter(Func<int> slot) => (ValueGetter<TItem>)((ref TItem value) => value = _values[slot()]);
    }

    /// <summary>Vectors are copied out: a reader may write into what it was given.</summary>
    private sealed class VectorBuffer<TItem>(ValueGetter<VBuffer<TItem>> read, int size) : Buffer
    {
        private readonly VBuffer<TItem>[] _values = new VBuffer<TItem>[size];

        public override void Fill(int slot) => read(ref _values[slot]);

        public override Delegate CreateGetter(Func<int> slot) =>
            (ValueGetter<VBuffer<TItem>>)((ref VBuffer<TItem> value) => _values[slot()].CopyTo(ref value));
    }
}
