using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;
using ML.Rlhf;
using ML.Rlhf.Bridge;
using ML.Rlhf.Torch.Generation;
using TorchSharp;
using EncoderDecoderModule = ML.Rlhf.Torch.Modules.EncoderDecoder;

[assembly: ModelComponent(typeof(TextToTextTransformer))]

namespace ML.Rlhf;

/// <summary>
/// An encoder–decoder that makes one text of another: what <see cref="EncoderDecoderTrainer"/> gives. In a pipeline it adds a text column
/// with the completion of a prompt column; outside of one it generates with
/// <see cref="Generate(string, SamplingOptions?, CancellationToken)"/>.
/// </summary>
/// <remarks>
/// <para>Lazy: the model runs when a completion is asked for, for a batch of rows at a time.</para>
/// <para>A prompt gets the same completion with the same <see cref="SamplingOptions.Seed"/>, wherever it stands in the data. What the
/// options say of repetition concerns the completion: it may repeat the prompt.</para>
/// <para>Saved by <c>ml.Model.Save</c> and loaded by <c>ml.Model.Load</c>, in any program that has this package.</para>
/// </remarks>
public sealed class TextToTextTransformer : ITransformer, IDisposable, IModelComponent<TextToTextTransformer>
{
    private readonly IHostEnvironment _environment;
    private readonly LanguageModel<EncoderDecoderModule> _model;

    internal TextToTextTransformer(
        IHostEnvironment environment, LanguageModel<EncoderDecoderModule> model, string promptColumnName, string completionColumnName,
        SamplingOptions sampling)
    {
        sampling.Validate();
        _environment = environment;
        _model = model;
        PromptColumnName = promptColumnName;
        CompletionColumnName = completionColumnName;
        Sampling = sampling;
    }

    /// <summary>The text column that is read.</summary>
    public string PromptColumnName { get; }

    /// <summary>The text column that is added.</summary>
    public string CompletionColumnName { get; }

    /// <summary>How completions are drawn in a pipeline, and where no other options are given.</summary>
    public SamplingOptions Sampling { get; }

    /// <summary>How the model cuts text into tokens.</summary>
    public TextTokenizer Tokenizer => _model.Tokenizer;

    /// <summary>The shape of the model.</summary>
    public EncoderDecoderArchitecture Architecture => (EncoderDecoderArchitecture)_model.Architecture;

    /// <summary>
    /// The network itself, for what this package does not do. It belongs to this transformer: do not dispose or train it.
    /// </summary>
    public torch.nn.Module Module => _model.Module;

    /// <summary>The same model with other sampling options. It shares the weights; each of the two is disposed on its own.</summary>
    /// <param name="sampling">The options of the new transformer.</param>
    /// <exception cref="ArgumentException">A value of the options is out of its range.</exception>
    public TextToTextTransformer WithSampling(SamplingOptions sampling) =>
        new(_environment, _model.Share(), PromptColumnName, CompletionColumnName, sampling);

    /// <summary>Completes one prompt.</summary>
    /// <param name="prompt">Any text.</param>
    /// <param name="sampling">How to draw; null for <see cref="Sampling"/>.</param>
    /// <param name="cancellationToken">Stops before the next token.</param>
    /// <returns>The completion: at most <see cref="SamplingOptions.MaxNewTokens"/> and the context's length.</returns>
    /// <exception cref="ArgumentException">The prompt does not fit the model's context, and
    /// <see cref="SamplingOptions.TruncatePrompts"/> is false.</exception>
    public string Generate(string prompt, SamplingOptions? sampling = null, CancellationToken cancellationToken = default) =>
        Generate([prompt], sampling, cancellationToken)[0];

    /// <summary>Completes several prompts, in batches of similar length.</summary>
    /// <inheritdoc cref="Generate(string, SamplingOptions?, CancellationToken)"/>
    /// <param name="prompts">Any texts.</param>
    /// <param name="sampling">How to draw; null for <see cref="Sampling"/>.</param>
    /// <param name="cancellationToken">Stops before the next token.</param>
    /// <returns>The completions, in the order of the prompts.</returns>
    public IReadOnlyList<string> Generate(
        IReadOnlyList<string> prompts, SamplingOptions? sampling = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(prompts);
        sampling ??= Sampling;
        sampling.Validate();
        int[][] tokens = [.. prompts.Select(prompt => EncodePrompt(prompt, sampling))];
        var drawn = _model.Run(module => CompletionBatches.Draw(
            tokens, sampling.Seed,
            (batch, streams) => Sampler.Generate(
                module, batch, streams, Tokenizer.EndOfText, sampling, checkCanceled: cancellationToken.ThrowIfCancellationRequested)));
        return [.. drawn.Select(completion => Tokenizer.Decode(completion.Tokens))];
    }

    private int[] EncodePrompt(string prompt, SamplingOptions sampling)
    {
        ArgumentNullException.ThrowIfNull(prompt);
        int[] tokens = Tokenization.WithEnd(Tokenizer, prompt);
        int context = Architecture.ContextLength;
        if (tokens.Length <= context)
            return tokens;
        if (sampling.TruncatePrompts)
            return tokens[^context..];
        throw _environment.Process(new ArgumentException(
            $"The prompt '{Texts.Shorten(prompt)}' has {tokens.Length} tokens with its end, but the model's context is {context} tokens. " +
            $"Shorten the prompt, set {nameof(SamplingOptions)}.{nameof(SamplingOptions.TruncatePrompts)} to keep its end, or use a " +
            "model with a longer context.", nameof(prompt)));
    }

    /// <summary>True: a row of the output needs one row of the input.</summary>
    public bool IsRowToRowMapper => true;

    /// <summary>The columns of the input and the completion.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    public DataViewSchema GetOutputSchema(DataViewSchema inputSchema) => Column(inputSchema).Map(inputSchema).OutputSchema;

    /// <summary>The input with the completion; the model runs when it is read.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    public IDataView Transform(IDataView input)
    {
        ArgumentNullException.ThrowIfNull(input);
        return Column(input.Schema).AddTo(input);
    }

    /// <summary>The mapping for single rows, which a prediction engine uses.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    public IRowToRowMapper GetRowToRowMapper(DataViewSchema inputSchema) => Column(inputSchema).Map(inputSchema);

    private BatchedColumns<ReadOnlyMemory<char>> Column(DataViewSchema inputSchema)
    {
        ArgumentNullException.ThrowIfNull(inputSchema);
        TextColumns.RequireText(_environment, inputSchema, "prompt", PromptColumnName);
        return new BatchedColumns<ReadOnlyMemory<char>>(
            CompletionColumnName, TextDataViewType.Instance, [PromptColumnName], CompletionBatches.Size,
            rows => [.. Generate([.. rows.Select(row => row[0])]).Select(completion => completion.AsMemory())]);
    }

    /// <summary>Frees the weights, unless another transformer shares them.</summary>
    public void Dispose() => _model.Dispose();

    static string IModelComponent<TextToTextTransformer>.Id => "TextToText";

    static int IModelComponent<TextToTextTransformer>.Version => 1;

    void ICanSaveModel.Save(ModelSaveContext ctx) => ModelStore.Save(ctx, this);

    void IModelComponent<TextToTextTransformer>.Save(ModelWriter writer)
    {
        writer.Main.Write(PromptColumnName);
        writer.Main.Write(CompletionColumnName);
        SavedSampling.Write(writer, Sampling);
        _model.Save(writer);
    }

    static TextToTextTransformer IModelComponent<TextToTextTransformer>.Load(IHostEnvironment env, ModelReader reader)
    {
        string prompt = reader.Main.ReadString(), completion = reader.Main.ReadString();
        var sampling = SavedSampling.Read(reader);
        var model = LanguageModel<EncoderDecoderModule>.Load(env, reader, architecture => architecture is EncoderDecoderArchitecture shape
            ? new EncoderDecoderModule(shape)
            : throw new FormatException(
                $"architecture.json has the shape of a {architecture.GetType().Name}, but the model is an encoder-decoder. The file is " +
                "damaged; save the model again."));
        return new TextToTextTransformer(env, model, prompt, completion, sampling);
    }
}
