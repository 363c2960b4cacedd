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
        public double Precise { get; set; }
        public int[] Numbers { get; set; } = [];
        public bool Flag { get; set; }
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
            foreach (var _ in TextColumns.Read(Data(), ["A"], stop.Token.ThrowIfCancellationRequested))
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

    [Theory]
    [InlineData("Nope", "Could not find ranks column 'Nope'")]
    [InlineData("Many", "Schema mismatch for ranks column 'Many': expected Vector<Single>, got VarVector<String>")]
    [InlineData("Number", "Schema mismatch for ranks column 'Number': expected Vector<Single>, got Single")]
    public void A_column_that_is_no_vector_of_numbers_is_an_error(string column, string message)
    {
        Assert.Equal(message + " (Parameter 'inputSchema')", Assert.Throws<ArgumentOutOfRangeException>(
            () => TextColumns.RequireNumbers(Host, Schemas.Shape(Data().Schema), "ranks", column)).Message);
    }

    [Theory]
    [InlineData("A", "expected Vector<String>, got String")]
    [InlineData("Numbers", "expected Vector<String>, got VarVector<Int32>")]
    public void A_column_that_is_no_vector_of_texts_is_an_error(string column, string message)
    {
        Assert.Equal($"Schema mismatch for answers column '{column}': {message} (Parameter 'inputSchema')",
            Assert.Throws<ArgumentOutOfRangeException>(
                () => TextColumns.RequireTexts(Host, Schemas.Shape(Data().Schema), "answers", column)).Message);
    }

    [Theory]
    [InlineData("Precise", "got Double")]
    [InlineData("Numbers", "got VarVector<Int32>")]
    public void A_column_that_is_no_Single_is_an_error(string column, string found)
    {
        Assert.Equal($"Schema mismatch for weight column '{column}': expected Single, {found} (Parameter 'inputSchema')",
            Assert.Throws<ArgumentOutOfRangeException>(
                () => TextColumns.RequireSingle(Host, Schemas.Shape(Data().Schema), "weight", column)).Message);
    }

    [Fact]
    public void Texts_and_numbers_of_a_row_are_read()
    {
        TextColumns.RequireTexts(Host, Schemas.Shape(Data().Schema), "answers", "Many");
        TextColumns.RequireNumbers(Host, Schemas.Shape(Data().Schema), "ranks", "Numbers");
        TextColumns.RequireSingle(Host, Schemas.Shape(Data().Schema), "weight", "Number");
        using var cursor = Data().GetRowCursor(Data().Schema);
        Func<string[]> texts = TextColumns.Texts(cursor, "Many");
        Func<double[]> numbers = TextColumns.Numbers(cursor, "Numbers");
        Func<float> number = TextColumns.Single(cursor, "Number");

        Assert.True(TextColumns.MoveNext(cursor, Stop));
        Assert.Equal(["x", "y"], texts());
        Assert.Equal([3.0, -4.0], numbers());
        Assert.Equal(0.5f, number());
        Assert.True(TextColumns.MoveNext(cursor, Stop));
        Assert.Empty(texts());
        Assert.Empty(numbers());
        Assert.False(TextColumns.MoveNext(cursor, Stop));
    }

    [Fact]
    public void A_text_column_passes()
    {
        TextColumns.RequireText(Host, Data().Schema, "prompt", "A");
    }

    [Fact]
    public void A_label_comes_with_its_texts_whatever_the_order_of_the_columns()
    {
        var rows = TextColumns.ReadLabeled(Data(), ["B", "A"], "Flag", Stop).Select(row => (row.Texts[0], row.Texts[1], row.Label));

        Assert.Equal([("b1", "a1", false), ("b2", "a2", true)], rows);
    }

    [Theory]
    [InlineData("Nope", "Could not find label column 'Nope' (Parameter 'inputSchema')")]
    [InlineData("Number", "Schema mismatch for label column 'Number': expected Boolean, got Single (Parameter 'inputSchema')")]
    [InlineData("A", "Schema mismatch for label column 'A': expected Boolean, got String (Parameter 'inputSchema')")]
    public void A_label_that_is_no_Boolean_is_an_error_in_the_words_of_ML_NET(string column, string message)
    {
        var shape = Schemas.Shape(Data().Schema);

        Assert.Equal(message, Assert.Throws<ArgumentOutOfRangeException>(
            () => TextColumns.RequireBoolean(Host, shape, "label", column)).Message);
        TextColumns.RequireBoolean(Host, shape, "label", "Flag");
    }

    private static Action Stop => TestContext.Current.CancellationToken.ThrowIfCancellationRequested;

    private IHost Host => ((IHostEnvironment)_ml).Register("Test");

    private IDataView Data() => _ml.Data.LoadFromEnumerable(new[]
    {
        new Row { A = "a1", B = "b1", Many = ["x", "y"], Numbers = [3, -4], Number = 0.5f },
        new Row { A = "a2", B = "b2", Flag = true },
    });
}
