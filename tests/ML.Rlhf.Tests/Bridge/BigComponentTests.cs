using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;
using ML.Rlhf.Bridge;
using ML.Rlhf.Tests.Bridge;

[assembly: ModelComponent(typeof(Big))]

namespace ML.Rlhf.Tests.Bridge;

[Trait("Tier", "Slow")]
public sealed class BigComponentTests
{
    [Fact]
    public void A_stream_of_more_than_two_gigabytes_comes_back()
    {
        var path = Path.GetTempFileName();
        try
        {
            const long length = (1L << 31) + 12_345;
            var ml = new MLContext();
            ml.Model.Save(new Big(length), inputSchema: null, path);

            Assert.Equal(length, Assert.IsType<Big>(ml.Model.Load(path, out _)).Length);
        }
        finally
        {
            File.Delete(path);
        }
    }
}

/// <summary>Zeros, but for the position of each piece at its start; written and read in calls of 100 MB.</summary>
internal sealed class Big(long length) : ITransformer, IModelComponent<Big>
{
    private const int Piece = 100_000_000;

    public long Length => length;

    public bool IsRowToRowMapper => false;

    static string IModelComponent<Big>.Id => "Big";

    static int IModelComponent<Big>.Version => 1;

    void IModelComponent<Big>.Save(ModelWriter writer) => writer.WriteStream("weights", stream =>
    {
        var piece = new byte[Piece];
        for (var position = 0L; position < length; position += Piece)
        {
            BitConverter.TryWriteBytes(piece, position);
            stream.Write(piece.AsSpan(0, (int)Math.Min(Piece, length - position)));
        }
    });

    static Big IModelComponent<Big>.Load(IHostEnvironment env, ModelReader reader)
    {
        var length = 0L;
        reader.ReadStream("weights", stream =>
        {
            var piece = new byte[Piece];
            for (; length < stream.Length; length += Piece)
            {
                var part = piece.AsSpan(0, (int)Math.Min(Piece, stream.Length - length));
                stream.ReadExactly(part);
                Assert.Equal(length, BitConverter.ToInt64(part));
                Assert.False(part[8..].ContainsAnyExcept((byte)0));
            }
            length = stream.Length;
        });
        return new(length);
    }

    void ICanSaveModel.Save(ModelSaveContext context) => ModelStore.Save(context, this);

    public DataViewSchema GetOutputSchema(DataViewSchema inputSchema) => inputSchema;

    public IDataView Transform(IDataView input) => input;

    public IRowToRowMapper GetRowToRowMapper(DataViewSchema inputSchema) => throw new NotSupportedException();
}
