using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;
using ML.Rlhf;
using ML.Rlhf.Bridge;

[assembly: ModelComponent(typeof(TextTokenizingTransformer))]

namespace ML.Rlhf;

/// <summary>Adds the ids of the tokens of a text column. Lazy and row by row: a text is tokenized when its ids are asked for.</summary>
public sealed class TextTokenizingTransformer : ITransformer, IModelComponent<TextTokenizingTransformer>
{
    /// <summary>A vector of variable length. Int32 and not a key: it can be saved, and stock transforms understand it.</summary>
    internal static readonly DataViewType OutputType = new VectorDataViewType(NumberDataViewType.Int32);

    private readonly IHost _host;
    private readonly string _outputColumnName;
    private readonly string _inputColumnName;

    internal TextTokenizingTransformer(IHostEnvironment env, string outputColumnName, string inputColumnName, TextTokenizer tokenizer)
    {
        _host = env.Register(nameof(TextTokenizingTransformer));
        _outputColumnName = outputColumnName;
        _inputColumnName = inputColumnName;
        Tokenizer = tokenizer;
    }

    /// <summary>The tokenizer: the one that was given, or the one that was trained.</summary>
    public TextTokenizer Tokenizer { get; }

    /// <summary>True: a row of the output needs one row of the input.</summary>
    public bool IsRowToRowMapper => true;

    /// <summary>The columns of the input and the vector of ids.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    public DataViewSchema GetOutputSchema(DataViewSchema inputSchema) => Map(inputSchema).OutputSchema;

    /// <summary>The input with the vector of ids; nothing is computed yet.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    public IDataView Transform(IDataView input) => new MappedDataView(input, Map(input.Schema));

    /// <summary>The mapping for single rows, which a prediction engine uses.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    public IRowToRowMapper GetRowToRowMapper(DataViewSchema inputSchema) => Map(inputSchema);

    private RowMapper Map(DataViewSchema inputSchema)
    {
        TextColumns.RequireText(_host, inputSchema, "text", _inputColumnName);
        return new RowMapper(inputSchema, [_inputColumnName], [new AddedColumn(_outputColumnName, OutputType, CreateGetter)]);
    }

    private ValueGetter<VBuffer<int>> CreateGetter(DataViewRow input)
    {
        var getText = input.GetGetter<ReadOnlyMemory<char>>(input.Schema[_inputColumnName]);
        ReadOnlyMemory<char> text = default;
        var ids = new List<int>();
        return (ref VBuffer<int> destination) =>
        {
            getText(ref text);
            ids.Clear();
            Tokenizer.Encode(text.Span, ids);
            var editor = VBufferEditor.Create(ref destination, ids.Count);
            ids.CopyTo(editor.Values);
            destination = editor.Commit();
        };
    }

    static string IModelComponent<TextTokenizingTransformer>.Id => "TextTokenizing";

    static int IModelComponent<TextTokenizingTransformer>.Version => 1;

    void ICanSaveModel.Save(ModelSaveContext ctx) => ModelStore.Save(ctx, this);

    void IModelComponent<TextTokenizingTransformer>.Save(ModelWriter writer)
    {
        writer.Main.Write(_outputColumnName);
        writer.Main.Write(_inputColumnName);
        writer.WriteStream("tokenizer.json", Tokenizer.Save);
    }

    static TextTokenizingTransformer IModelComponent<TextTokenizingTransformer>.Load(IHostEnvironment env, ModelReader reader)
    {
        string outputColumnName = reader.Main.ReadString();
        string inputColumnName = reader.Main.ReadString();
        TextTokenizer? tokenizer = null;
        reader.ReadStream("tokenizer.json", stream => tokenizer = TextTokenizer.Load(stream));
        return new TextTokenizingTransformer(env, outputColumnName, inputColumnName, tokenizer!);
    }
}
