using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;
using ML.Rlhf.Bridge;

namespace ML.Rlhf.Tests.Data;

public sealed class TextColumnsTests
{
    private readonly MLContext _ml = new(seed: 1);

    private sealed class Row
    {
        public string A { get; set; } = "";
        public string B { get; set; } = "";
        public string[] Many { get; set; } = [];
        public float Number { get; set; }
    }

    [Fact]
    public void Rows_come_in_the_order_of_the_columns_asked_for()
    {
        var rows = TextColumns.Read(Data(), ["B", "A"], Stop).ToArray();

        Assert.Equal([["b1", "a1"], ["b2", "a2"]], rows);
    }

    [Fact]
    public void A_single_column_is_read_alone()
    {
        Assert.Equal(["a1", "a2"], TextColumns.Read(Data(), ["A"], Stop).Select(row => Assert.Single(row)));
    }

    [Fact]
    public void Only_the_columns_asked_for_are_computed()
    {
        var computed = 0;
        var data = _ml.Transforms.CustomMapping<Row, ScoredCompletion>((_, output) => output.Score = ++computed, contractName: null)
            .Fit(Data()).Transform(Data());

        Assert.Equal(2, TextColumns.Read(data, ["A"], Stop).Count());
        Assert.Equal(0, computed);
    }

    [Fact]
    public void Reading_stops_when_it_is_cancelled()
    {
        using var stop = new CancellationTokenSource();
        var read = 0;

        Assert.Throws<OperationCanceledException>(() =>
        {
            foreach (var _ in TextColumns.Read(Data(), ["A"], stop.Token))
            {
                read++;
                stop.Cancel();
            }
        });
        Assert.Equal(1, read);
    }

    [Theory]
    [InlineData("Nope", "Could not find prompt column 'Nope' (Parameter 'inputSchema')")]
    [InlineData("Number", "Schema mismatch for prompt column 'Number': expected String, got Single (Parameter 'inputSchema')")]
    [InlineData("Many", "Schema mismatch for prompt column 'Many': expected String, got VarVector<String> (Parameter 'inputSchema')")]
    public void A_column_that_is_no_text_is_an_error_in_the_words_of_ML_NET(string column, string message)
    {
        var schema = Data().Schema;
        var shape = Schemas.Shape(schema);

        var ofSchema = Assert.Throws<ArgumentOutOfRangeException>(() => TextColumns.RequireText(Host, schema, "prompt", column));
        var ofShape = Assert.Throws<ArgumentOutOfRangeException>(() => TextColumns.RequireText(Host, shape, "prompt", column));

        Assert.Equal(message, ofSchema.Message);
        Assert.Equal(message, ofShape.Message);
    }

    [Fact]
    public void A_text_column_passes()
    {
        TextColumns.RequireText(Host, Data().Schema, "prompt", "A");
    }

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    private IHost Host => ((IHostEnvironment)_ml).Register("Test");

    private IDataView Data() => _ml.Data.LoadFromEnumerable(new[]
    {
        new Row { A = "a1", B = "b1" },
        new Row { A = "a2", B = "b2" },
    });
}
