using System.Reflection;
using Microsoft.ML;
using Microsoft.ML.Data;

namespace ML.Rlhf;

/// <summary>
/// A column that a model computes from text columns, many rows at a time. Reading is lazy: a cursor reads one batch of rows ahead, and
/// runs the model when the column of the first of them is asked for. Whoever asks for other columns only never runs it.
/// </summary>
/// <typeparam name="T">What ML.NET stores for the column's type: a float, or <c>ReadOnlyMemory&lt;char&gt;</c> for text.</typeparam>
/// <param name="Name">The column's name.</param>
/// <param name="Type">The column's type.</param>
/// <param name="Sources">The text columns that it is computed from.</param>
/// <param name="BatchSize">Rows per run of the model.</param>
/// <param name="Compute">From the sources' texts of some rows to one value per row.</param>
internal sealed record BatchedColumn<T>(
    string Name, DataViewType Type, string[] Sources, int BatchSize, Func<IReadOnlyList<string[]>, IReadOnlyList<T>> Compute)
{
    public IDataView AddTo(IDataView input) => new BatchedDataView<T>(input, this, Map(input.Schema));

    /// <summary>The mapping for single rows, which a prediction engine uses.</summary>
    public RowMapper Map(DataViewSchema inputSchema) =>
        new(inputSchema, Sources, [new AddedColumn(Name, Type, CreateGetter)]);

    /// <summary>Reads the sources of the row that a cursor stands at.</summary>
    public Func<string[]> CreateReader(DataViewRow row)
    {
        var getters = Array.ConvertAll(Sources, source => row.GetGetter<ReadOnlyMemory<char>>(row.Schema[source]));
        return () => Array.ConvertAll(getters, getter =>
        {
            ReadOnlyMemory<char> text = default;
            getter(ref text);
            return text.ToString();
        });
    }

    private ValueGetter<T> CreateGetter(DataViewRow row)
    {
        var read = CreateReader(row);
        return (ref T value) => value = Compute([read()])[0];
    }
}

/// <summary>Data with a <see cref="BatchedColumn{T}"/>.</summary>
internal sealed class BatchedDataView<T>(IDataView input, BatchedColumn<T> column, RowMapper mapper) : IDataView
{
    public DataViewSchema Schema => mapper.OutputSchema;

    public bool CanShuffle => input.CanShuffle;

    public long? GetRowCount() => input.GetRowCount();

    public DataViewRowCursor GetRowCursor(IEnumerable<DataViewSchema.Column> columnsNeeded, Random? rand = null)
    {
        DataViewSchema.Column[] needed = [.. columnsNeeded];
        var cursor = input.GetRowCursor(mapper.GetDependencies(needed), rand);
        bool runsModel = needed.Any(c => c.Index == input.Schema.Count);
        return runsModel ? new BatchCursor(cursor, column, mapper, needed) : new MappedCursor(cursor, mapper.GetRow(cursor, needed));
    }

    /// <summary>One cursor: the model is the bottleneck, and it runs on all cores by itself.</summary>
    public DataViewRowCursor[] GetRowCursorSet(IEnumerable<DataViewSchema.Column> columnsNeeded, int n, Random? rand = null) =>
        [GetRowCursor(columnsNeeded, rand)];

    private sealed class BatchCursor : DataViewRowCursor
    {
        private readonly DataViewRowCursor _input;
        private readonly BatchedColumn<T> _column;
        private readonly RowMapper _mapper;
        private readonly HashSet<int> _active;
        private readonly Dictionary<int, Buffer> _passed; // input columns that are handed through, by index
        private readonly Func<string[]> _readSources;
        private readonly ValueGetter<DataViewRowId> _getId;
        private readonly List<string[]> _sources;
        private readonly DataViewRowId[] _ids;
        private IReadOnlyList<T>? _computed;
        private int _current = -1;
        private long _position = -1;
        private bool _inputEnded;

        public BatchCursor(DataViewRowCursor input, BatchedColumn<T> column, RowMapper mapper, DataViewSchema.Column[] needed)
        {
            (_input, _column, _mapper) = (input, column, mapper);
            _active = [.. needed.Select(c => c.Index)];
            _passed = needed.Where(c => c.Index < mapper.InputSchema.Count)
                .ToDictionary(c => c.Index, c => Buffer.Create(input, mapper.InputSchema[c.Index], column.BatchSize));
            _readSources = column.CreateReader(input);
            _getId = input.GetIdGetter();
            _sources = new List<string[]>(column.BatchSize);
            _ids = new DataViewRowId[column.BatchSize];
        }

        public override DataViewSchema Schema => _mapper.OutputSchema;

        public override long Position => _position;

        public override long Batch => 0;

        public override bool MoveNext()
        {
            if (_current + 1 >= _sources.Count && !ReadBatch())
            {
                _position = -1;
                return false;
            }
            _current++;
            _position++;
            return true;
        }

        private bool ReadBatch()
        {
            _sources.Clear();
            _computed = null;
            _current = -1;
            while (!_inputEnded && _sources.Count < _column.BatchSize)
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
            return _sources.Count > 0;
        }

        private void GetComputed(ref T value)
        {
            CheckPosition();
            _computed ??= _column.Compute(_sources);
            value = _computed[_current];
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
                : (ValueGetter<T>)GetComputed;
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

    /// <summary>The values of one input column for the rows of a batch.</summary>
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
