using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;
using ML.Rlhf;
using ML.Rlhf.Bridge;
using ML.Rlhf.Torch.Checkpoints;
using ML.Rlhf.Torch.Training;
using TorchSharp;
using EncoderModule = ML.Rlhf.Torch.Modules.Encoder;

[assembly: ModelComponent(typeof(EncoderTransformer))]

namespace ML.Rlhf;

/// <summary>
/// An encoder: adds the features of a text, a vector that any trainer of ML.NET can learn from, and guesses hidden words.
/// </summary>
/// <remarks>
/// Lazy: the model runs when features are asked for, for a batch of rows at a time. A text that is longer than the model's context has the
/// features of its beginning; the log says so, once for each transformer.
/// </remarks>
public sealed class EncoderTransformer : ITransformer, IDisposable, IModelComponent<EncoderTransformer>
{
    internal const string DefaultTextColumn = "Text", DefaultFeaturesColumn = "Features";
    private const int BatchSize = 64;

    private readonly IHostEnvironment _environment;
    private readonly LanguageModel<EncoderModule> _model;
    private readonly EncoderTokens _tokens;
    private int _warned;

    internal EncoderTransformer(
        IHostEnvironment environment, LanguageModel<EncoderModule> model, string textColumnName, string featuresColumnName,
        EmbeddingPooling pooling, bool normalizeFeatures)
    {
        _environment = environment;
        _model = model;
        _tokens = EncoderTokens.Of(model.Tokenizer);
        TextColumnName = textColumnName;
        FeaturesColumnName = featuresColumnName;
        Pooling = pooling;
        NormalizeFeatures = normalizeFeatures;
    }

    /// <summary>The text column.</summary>
    public string TextColumnName { get; }

    /// <summary>The column that is added: a vector of <see cref="LanguageModelArchitecture.Width"/> Singles.</summary>
    public string FeaturesColumnName { get; }

    /// <summary>How the states of a text's tokens become its features.</summary>
    public EmbeddingPooling Pooling { get; }

    /// <summary>Whether features are divided by their L2 norm.</summary>
    public bool NormalizeFeatures { get; }

    /// <summary>How the model cuts text into tokens.</summary>
    public TextTokenizer Tokenizer => _model.Tokenizer;

    /// <summary>The shape of the model.</summary>
    public EncoderArchitecture Architecture => (EncoderArchitecture)_model.Architecture;

    /// <summary>What stands in a text for the word that <see cref="FillMask"/> is to guess: [MASK] or &lt;mask&gt;.</summary>
    public string MaskToken => _tokens.MaskText;

    /// <summary>
    /// The network itself, for what this package does not do. It belongs to this transformer: do not dispose or train it.
    /// </summary>
    public torch.nn.Module Module => _model.Module;

    /// <inheritdoc cref="LanguageModel{TModule}.Use{TResult}"/>
    internal TResult Use<TResult>(Func<EncoderModule, TResult> read) => _model.Use(read);

    /// <summary>The features of a text.</summary>
    /// <param name="text">Any text; may be empty.</param>
    /// <returns><see cref="LanguageModelArchitecture.Width"/> numbers.</returns>
    public float[] Embed(string text) => Embed([text])[0];

    /// <summary>The features of several texts.</summary>
    /// <param name="texts">Any texts.</param>
    /// <returns>One vector each, in the same order.</returns>
    public IReadOnlyList<float[]> Embed(IReadOnlyList<string> texts)
    {
        ArgumentNullException.ThrowIfNull(texts);
        int room = Architecture.ContextLength - 2;
        var sequences = new TokenSequences();
        foreach (string text in texts)
        {
            int[] tokens = Tokenizer.Encode(text);
            if (tokens.Length > room)
                WarnOnceOfCut(text, tokens.Length + 2);
            sequences.Add(_tokens.Enclose(tokens.AsSpan(0, Math.Min(room, tokens.Length))));
        }
        return _model.Run(network => SentenceEmbedding.Embed(network, sequences, Pooling, NormalizeFeatures));
    }

    /// <summary>Guesses the word that a text leaves open.</summary>
    /// <param name="text">A text with one <see cref="MaskToken"/>: "Paris is the [MASK] of France."</param>
    /// <param name="top">How many guesses, from 1 to the size of the vocabulary.</param>
    /// <returns>The likeliest tokens, the likeliest first.</returns>
    /// <exception cref="ArgumentException">The text has no mask token or several, or does not fit the model's context.</exception>
    /// <exception cref="InvalidOperationException">The model was imported from a checkpoint without the head that guesses.</exception>
    public IReadOnlyList<MaskCandidate> FillMask(string text, int top = 5)
    {
        ArgumentNullException.ThrowIfNull(text);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(top);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(top, Tokenizer.VocabularySize);
        string[] parts = text.Split(MaskToken);
        if (parts.Length != 2)
            throw new ArgumentException(
                $"The text '{Texts.Shorten(text)}' has {parts.Length - 1} mask tokens, but must have one. Write {MaskToken} where the " +
                "word to guess stands, and guess several words one after another.", nameof(text));

        // A byte-level BPE keeps the space before a word in the word's token, so that none is left before the mask.
        int[] before = Tokenizer.Encode(Tokenizer.Kind == TokenizerKind.ByteLevelBpe ? parts[0].TrimEnd() : parts[0]);
        int[] after = Tokenizer.Encode(parts[1]);
        int[] tokens = _tokens.Enclose([.. before, _tokens.Mask, .. after]);
        if (tokens.Length > Architecture.ContextLength)
            throw new ArgumentException(
                $"The text '{Texts.Shorten(text)}' has {tokens.Length} tokens, but the model's context is {Architecture.ContextLength}. " +
                "Shorten it.", nameof(text));
        var guesses = _model.Run(network => MaskedTokenLoss.Likeliest(network, tokens, before.Length + 1, top));
        return [.. guesses.Select(guess => new MaskCandidate(
            Tokenizer.Decode([guess.Token]), guess.Probability, Tokenizer.Decode([.. before, guess.Token, .. after])))];
    }

    /// <summary>
    /// Writes the model in Hugging Face's layout, as a <c>BertForMaskedLM</c> or <c>RobertaForMaskedLM</c> (<c>BertModel</c> and
    /// <c>RobertaModel</c> without a head): <c>config.json</c>, <c>model.safetensors</c> or shards of it, and the tokenizer.
    /// </summary>
    /// <param name="folder">Made if it does not exist; a model that is there is replaced.</param>
    /// <param name="weights">How numbers are written.</param>
    /// <exception cref="IOException">The files cannot be written.</exception>
    public void SavePretrained(string folder, WeightType weights = WeightType.Float32)
    {
        Tokenizer.SavePretrained(folder); // first: it refuses tokenizers that have no such form
        _model.Use(network => EncoderCheckpoint.Save(network, folder, _tokens.Pad ?? 0, weights));
    }

    /// <summary>True: a row of the output needs one row of the input.</summary>
    public bool IsRowToRowMapper => true;

    /// <summary>The columns of the input and the features.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    public DataViewSchema GetOutputSchema(DataViewSchema inputSchema) => Column(inputSchema).Map(inputSchema).OutputSchema;

    /// <summary>The input with the features; the model runs when they are read.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    public IDataView Transform(IDataView input)
    {
        ArgumentNullException.ThrowIfNull(input);
        return Column(input.Schema).AddTo(input);
    }

    /// <summary>The mapping for single rows, which a prediction engine uses.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    public IRowToRowMapper GetRowToRowMapper(DataViewSchema inputSchema) => Column(inputSchema).Map(inputSchema);

    internal static VectorDataViewType FeaturesType(EncoderArchitecture architecture) => new(NumberDataViewType.Single, architecture.Width);

    private BatchedColumns<float[]> Column(DataViewSchema inputSchema)
    {
        ArgumentNullException.ThrowIfNull(inputSchema);
        TextColumns.RequireText(_environment, inputSchema, "text", TextColumnName);
        var features = ComputedColumn<float[]>.Of(
            FeaturesColumnName, FeaturesType(Architecture),
            vector => new VBuffer<float>(vector.Length, [.. vector])); // a reader may write into it
        return new BatchedColumns<float[]>([TextColumnName], BatchSize, rows => Embed([.. rows.Select(row => row[0])]), features);
    }

    private void WarnOnceOfCut(string text, int tokens)
    {
        if (Interlocked.Exchange(ref _warned, 1) != 0)
            return;
        using var channel = _environment.Register(nameof(EncoderTransformer)).Start("Features");
        channel.WarningLine(
            $"The text '{Texts.Shorten(text)}' has {tokens} tokens, but the model's context is {Architecture.ContextLength}: its " +
            "features are those of its beginning, and so are those of other long texts.");
    }

    /// <summary>Frees the weights, unless another transformer shares them.</summary>
    public void Dispose() => _model.Dispose();

    static string IModelComponent<EncoderTransformer>.Id => "Encoder";

    static int IModelComponent<EncoderTransformer>.Version => 1;

    void ICanSaveModel.Save(ModelSaveContext ctx) => ModelStore.Save(ctx, this);

    void IModelComponent<EncoderTransformer>.Save(ModelWriter writer)
    {
        writer.Main.Write(TextColumnName);
        writer.Main.Write(FeaturesColumnName);
        writer.Main.Write((int)Pooling);
        writer.Main.Write(NormalizeFeatures);
        _model.Save(writer);
    }

    static EncoderTransformer IModelComponent<EncoderTransformer>.Load(IHostEnvironment env, ModelReader reader)
    {
        string text = reader.Main.ReadString(), features = reader.Main.ReadString();
        var pooling = (EmbeddingPooling)reader.Main.ReadInt32();
        bool normalize = reader.Main.ReadBoolean();
        if (!Enum.IsDefined(pooling))
            throw new FormatException(
                $"The model pools in a way {(int)pooling} that there is not. The file is damaged; save the model again.");
        var model = LanguageModel<EncoderModule>.Load(env, reader, architecture => architecture is EncoderArchitecture encoder
            ? new EncoderModule(encoder)
            : throw new FormatException(
                $"The model is said to be an encoder, but has a {architecture.GetType().Name}. The file is damaged; save the model " +
                "again."));
        try
        {
            return new EncoderTransformer(env, model, text, features, pooling, normalize);
        }
        catch
        {
            model.Dispose(); // its tokenizer lacks what an encoder needs
            throw;
        }
    }
}
