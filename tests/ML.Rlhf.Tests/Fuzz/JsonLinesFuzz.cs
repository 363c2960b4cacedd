using System.Text;
using Microsoft.ML;
using Microsoft.ML.Data;
using ML.Rlhf.TestSupport;

namespace ML.Rlhf.Tests.Fuzz;

/// <summary>JSON Lines of every kind of value that the loader takes, read through the cursor of an IDataView.</summary>
internal sealed class JsonLinesFuzz : FuzzFormat
{
    private static readonly string s_lines = File.ReadAllText(Golden.PathOf("fuzz-seeds/rows.jsonl"));

    private readonly SplitText _pieces = new(s_lines);
    private readonly byte[] _bytes = Encoding.UTF8.GetBytes(s_lines);
    private readonly JsonLinesLoader _strict, _lenient;

    public JsonLinesFuzz()
    {
        var ml = new MLContext();
        _strict = ml.Data.CreateJsonLinesLoader<Row>(new JsonLinesOptions { MaxLineLength = 1 << 20 });
        _lenient = ml.Data.CreateJsonLinesLoader<Row>(new JsonLinesOptions { MaxLineLength = 4096, OnBadLine = BadLine.Skip });
    }

    public override FuzzInput Damage(Mutator mutator) => new("rows.jsonl", mutator.Next(8) switch
    {
        0 or 1 => mutator.Bytes(_bytes),
        2 => mutator.Bytes(Encoding.UTF8.GetBytes(mutator.Pieces(_pieces).Replace("\n", "\r\n"))),
        3 => [0xEF, 0xBB, 0xBF, .. Encoding.UTF8.GetBytes(mutator.Pieces(_pieces))],
        4 => Encoding.UTF8.GetBytes("[" + mutator.Pieces(_pieces).ReplaceLineEndings(",") + "]"), // an array, which is no JSON Lines
        _ => Encoding.UTF8.GetBytes(mutator.Pieces(_pieces)),
    });

    public override void Read(FuzzInput input)
    {
        ReadRows(_lenient.Load(new Memory(input.Content)), _ => true); // skips what it cannot read, and never throws
        try
        {
            var texts = new ConversationColumns("Text", null, null);
            foreach (var conversation in texts.Read(_lenient.Load(new Memory(input.Content)), () => { }))
                Assert.All(conversation, message => Assert.NotNull(message.Content));
        }
        catch (InvalidOperationException e)
        {
            Assert.StartsWith("Row ", e.Message); // a text that is no conversation
        }
        int columns = input.Content.Length; // which ones are asked for must not change which rows there are
        long some = ReadRows(_strict.Load(new Memory(input.Content)), i => (columns >> i % 8 & 1) == 0);
        long all = ReadRows(_strict.Load(new Memory(input.Content)), _ => true);
        Assert.Equal(all, some);
    }

    public override bool IsRefusal(Exception e) => e is FormatException;

    private static long ReadRows(IDataView data, Predicate<int> isActive)
    {
        using var cursor = data.GetRowCursor(data.Schema.Where(column => isActive(column.Index)));
        Action[] reads = [.. data.Schema.Where(column => isActive(column.Index)).Select(column => Reader(cursor, column))];
        long rows = 0;
        for (; cursor.MoveNext(); rows++)
            Array.ForEach(reads, read => read());
        return rows;
    }

    private static Action Reader(DataViewRowCursor cursor, DataViewSchema.Column column) => column.Name switch
    {
        "Text" => Reader<ReadOnlyMemory<char>>(cursor, column),
        "Single" => Reader<float>(cursor, column),
        "Double" => Reader<double>(cursor, column),
        "Int" => Reader<int>(cursor, column),
        "Long" => Reader<long>(cursor, column),
        "Flag" => Reader<bool>(cursor, column),
        "Texts" => Reader<VBuffer<ReadOnlyMemory<char>>>(cursor, column),
        "Doubles" => Reader<VBuffer<double>>(cursor, column),
        "Ints" => Reader<VBuffer<int>>(cursor, column),
        "Longs" => Reader<VBuffer<long>>(cursor, column),
        "Flags" => Reader<VBuffer<bool>>(cursor, column),
        _ => Reader<VBuffer<float>>(cursor, column),
    };

    private static Action Reader<T>(DataViewRowCursor cursor, DataViewSchema.Column column)
    {
        var getter = cursor.GetGetter<T>(column);
        T value = default!;
        return () => getter(ref value);
    }

    private sealed class Row
    {
        public string Text { get; set; } = "";
        public float Single { get; set; }
        public double Double { get; set; }
        public int Int { get; set; }
        public long Long { get; set; }
        public bool Flag { get; set; }
        public string[] Texts { get; set; } = [];
        public float[] Singles { get; set; } = [];
        public double[] Doubles { get; set; } = [];
        public int[] Ints { get; set; } = [];
        public long[] Longs { get; set; } = [];
        public bool[] Flags { get; set; } = [];

        [VectorType(3)]
        public float[] Fixed { get; set; } = [];
    }

    /// <summary>A file in memory.</summary>
    private sealed class Memory(byte[] content) : IMultiStreamSource
    {
        public int Count => 1;

        public string? GetPathOrNull(int index) => null;

        public Stream Open(int index) => new MemoryStream(content);

        public TextReader OpenTextReader(int index) => new StreamReader(Open(index));
    }
}
