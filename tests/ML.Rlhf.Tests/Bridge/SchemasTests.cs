using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;
using ML.Rlhf.Bridge;
using VectorKind = Microsoft.ML.SchemaShape.Column.VectorKind;

namespace ML.Rlhf.Tests.Bridge;

public sealed class SchemasTests
{
    public static TheoryData<DataViewType, VectorKind, DataViewType, bool> Types => new()
    {
        { TextDataViewType.Instance, VectorKind.Scalar, TextDataViewType.Instance, false },
        { new VectorDataViewType(NumberDataViewType.Single, 3), VectorKind.Vector, NumberDataViewType.Single, false },
        { new VectorDataViewType(BooleanDataViewType.Instance), VectorKind.VariableVector, BooleanDataViewType.Instance, false },
        { new KeyDataViewType(typeof(uint), 5), VectorKind.Scalar, NumberDataViewType.UInt32, true },
    };

    [Theory]
    [MemberData(nameof(Types))]
    public void A_column_has_the_shape_of_its_type(
        DataViewType type, VectorKind kind, DataViewType itemType, bool isKey)
    {
        var column = Schemas.Column("X", type);

        Assert.Equal(("X", kind, itemType, isKey), (column.Name, column.Kind, column.ItemType, column.IsKey));
    }

    [Fact]
    public void New_columns_come_last_or_replace_those_of_the_same_name()
    {
        var input = Shape(("A", TextDataViewType.Instance), ("B", TextDataViewType.Instance));

        var output = Schemas.With(input, Schemas.Column("A", NumberDataViewType.Single), Schemas.Column("C", NumberDataViewType.Int64));

        Assert.Equal(["A: Single", "B: String", "C: Int64"], output.Select(column => $"{column.Name}: {column.ItemType}"));
    }

    [Fact]
    public void Errors_have_the_words_of_ML_NET_itself()
    {
        var ml = new MLContext();
        var stock = ml.Regression.Trainers.OnlineGradientDescent("Nope");
        var input = Shape(("Features", new VectorDataViewType(NumberDataViewType.Single, 2)), ("Label", TextDataViewType.Instance));
        var expected = Assert.Throws<ArgumentOutOfRangeException>(() => stock.GetOutputSchema(input));

        var actual = Assert.IsType<ArgumentOutOfRangeException>(Schemas.NotFound((IHostEnvironment)ml, "label", "Nope"));

        Assert.Equal(expected.Message, actual.Message);
        Assert.Equal("Could not find label column 'Nope' (Parameter 'inputSchema')", actual.Message);
        Assert.Equal("Schema mismatch for prompt column 'Scores': expected String, got VarVector<Single> (Parameter 'inputSchema')",
            Schemas.Mismatch((IHostEnvironment)ml, "prompt",
                Schemas.Column("Scores", new VectorDataViewType(NumberDataViewType.Single)), TextDataViewType.Instance).Message);
    }

    private static SchemaShape Shape(params (string Name, DataViewType Type)[] columns)
    {
        var builder = new DataViewSchema.Builder();
        foreach (var (name, type) in columns)
            builder.AddColumn(name, type);
        return Schemas.Shape(builder.ToSchema());
    }
}
