using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;
using ML.Rlhf.Bridge;
using ML.Rlhf.Tests.Bridge;

[assembly: ModelComponent(typeof(Shout))]

namespace ML.Rlhf.Tests.Bridge;

internal sealed class TextRow
{
    public string Text { get; set; } = "";
}

internal sealed class ShoutRow
{
    public string Shouted { get; set; } = "";
}

/// <summary>
/// The smallest model component: Text in capitals, followed by the content of a named stream. The rows are the work of a stock transformer,
/// so that all that is tested is the way into and out of a model file.
/// </summary>
internal sealed class Shout(string suffix, ITransformer? nested = null) : ITransformer, IModelComponent<Shout>
{
    /// <summary>The version to be written and read as, for the calls below a test.</summary>
    public static readonly AsyncLocal<int?> PretendVersion = new();

    private readonly ITransformer _rows = Rows(suffix);

    public string Suffix => suffix;

    public ITransformer? Nested => nested;

    public int LoadedVersion { get; private init; }

    public bool IsRowToRowMapper => true;

    static string IModelComponent<Shout>.Id => "Shout";

    static int IModelComponent<Shout>.Version => PretendVersion.Value ?? 2;

    static Shout IModelComponent<Shout>.Load(IHostEnvironment env, ModelReader reader)
    {
        var length = reader.Main.ReadInt32();
        var hasNested = reader.Main.ReadBoolean();
        var characters = new byte[length];
        reader.ReadStream("suffix.txt", stream => stream.ReadExactly(characters));
        return new(System.Text.Encoding.UTF8.GetString(characters), hasNested ? reader.ReadModel("Nested") : null)
        {
            LoadedVersion = reader.Version,
        };
    }

    void IModelComponent<Shout>.Save(ModelWriter writer)
    {
        var characters = System.Text.Encoding.UTF8.GetBytes(suffix);
        writer.Main.Write(characters.Length);
        writer.Main.Write(nested != null);
        writer.WriteStream("suffix.txt", stream =>
        {
            stream.Write(characters);
            stream.Dispose(); // as torch.nn.Module.save does
        });
        if (nested != null)
            writer.WriteModel("Nested", nested);
    }

    void ICanSaveModel.Save(ModelSaveContext context) => ModelStore.Save(context, this);

    public DataViewSchema GetOutputSchema(DataViewSchema inputSchema) => _rows.GetOutputSchema(inputSchema);

    public IDataView Transform(IDataView input) => _rows.Transform(input);

    public IRowToRowMapper GetRowToRowMapper(DataViewSchema inputSchema) => _rows.GetRowToRowMapper(inputSchema);

    private static ITransformer Rows(string suffix)
    {
        var ml = new MLContext();
        return ml.Transforms
            .CustomMapping<TextRow, ShoutRow>((row, shouted) => shouted.Shouted = row.Text.ToUpperInvariant() + suffix, contractName: null)
            .Fit(ml.Data.LoadFromEnumerable<TextRow>([]));
    }
}

/// <summary>A component in every respect, but that no assembly declares it.</summary>
internal sealed class Undeclared : ITransformer, IModelComponent<Undeclared>
{
    public static int Loaded;

    public bool IsRowToRowMapper => false;

    static string IModelComponent<Undeclared>.Id => "Undeclared";

    static int IModelComponent<Undeclared>.Version => 1;

    static Undeclared IModelComponent<Undeclared>.Load(IHostEnvironment env, ModelReader reader)
    {
        Loaded++;
        return new();
    }

    void IModelComponent<Undeclared>.Save(ModelWriter writer) { }

    void ICanSaveModel.Save(ModelSaveContext context) => ModelStore.Save(context, this);

    public DataViewSchema GetOutputSchema(DataViewSchema inputSchema) => inputSchema;

    public IDataView Transform(IDataView input) => input;

    public IRowToRowMapper GetRowToRowMapper(DataViewSchema inputSchema) => throw new NotSupportedException();
}
