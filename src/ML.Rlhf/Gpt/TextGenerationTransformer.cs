using System.Runtime.CompilerServices;
using System.Threading.Channels;
using ML.Rlhf;
using ML.Rlhf.Bridge;
using ML.Rlhf.Torch;
using ML.Rlhf.Torch.Checkpoints;
using ML.Rlhf.Torch.Generation;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;
using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;
using TorchSharp;

[assembly: ModelComponent(typeof(TextGenerationTransformer))]

namespace ML.Rlhf;

/// <summary>
/// A language model that completes text: what all trainers but that of reward models give. In a pipeline it adds a text column with the
/// completion of a prompt column; outside of one it generates with <see cref="Generate(string, SamplingOptions?, CancellationToken)"/>.
/// </summary>
/// <remarks>
/// <para>Lazy: the model runs when a completion is asked for, for a batch of rows at a time.</para>
/// <para>A prompt gets the same completion with the same <see cref="SamplingOptions.Seed"/>, wherever it stands in the data.</para>
/// <para>Saved by <c>ml.Model.Save</c> and loaded by <c>ml.Model.Load</c>, in any program that has this package.</para>
/// </remarks>
public sealed partial class TextGenerationTransformer : ITransformer, IDisposable, IModelComponent<TextGenerationTransformer>
{
    internal const string DefaultPromptColumn = "Prompt", DefaultCompletionColumn = "Completion";

    private readonly IHostEnvironment _environment;
    private readonly LanguageModel<CausalLanguageModel> _model;

    internal TextGenerationTransformer(
        IHostEnvironment environment, LanguageModel<CausalLanguageModel> model, string promptColumnName, string completionColumnName,
        SamplingOptions sampling, ChatTemplate? chatTemplate = null, ConversationColumns? conversations = null)
    {
        sampling.Validate();
        _environment = environment;
        _model = model;
        PromptColumnName = promptColumnName;
        CompletionColumnName = completionColumnName;
        Sampling = sampling;
        ChatTemplate = chatTemplate;
        Conversations = conversations;
        _chat = chatTemplate is null ? null : new ChatEncoder(chatTemplate, model.Tokenizer);
    }

    /// <summary>The text column that is completed, except by a model that was fine-tuned on conversations: it answers these.</summary>
    public string PromptColumnName { get; }

    /// <summary>The text column that is added.</summary>
    public string CompletionColumnName { get; }

    /// <summary>How completions are drawn in a pipeline, and where no other options are given.</summary>
    public SamplingOptions Sampling { get; }

    /// <summary>How the model cuts text into tokens.</summary>
    public TextTokenizer Tokenizer => _model.Tokenizer;

    /// <summary>The shape of the model.</summary>
    public LanguageModelArchitecture Architecture => _model.Architecture;

    /// <summary>
    /// The network itself, for what this package does not do. It belongs to this transformer: do not dispose or train it.
    /// </summary>
    public torch.nn.Module Module => _model.Module;

    /// <inheritdoc cref="LanguageModel{TModule}.Use{TResult}"/>
    internal TResult Use<TResult>(Func<CausalLanguageModel, TResult> read) => _model.Use(read);

    /// <summary>The same model with other sampling options. It shares the weights; each of the two is disposed on its own.</summary>
    /// <param name="sampling">The options of the new transformer.</param>
    /// <exception cref="ArgumentException">A value of the options is out of its range.</exception>
    public TextGenerationTransformer WithSampling(SamplingOptions sampling) =>
        new(_environment, _model.Share(), PromptColumnName, CompletionColumnName, sampling, ChatTemplate, Conversations);

    /// <summary>Completes one prompt.</summary>
    /// <param name="prompt">Any text; an empty one lets the model begin a text of its own.</param>
    /// <param name="sampling">How to draw; null for <see cref="Sampling"/>.</param>
    /// <param name="cancellationToken">Stops before the next token.</param>
    /// <returns>The new text, without the prompt.</returns>
    /// <exception cref="ArgumentException">The prompt fills the model's context, and <see cref="SamplingOptions.TruncatePrompts"/> is
    /// false.</exception>
    public string Generate(string prompt, SamplingOptions? sampling = null, CancellationToken cancellationToken = default) =>
        Generate([prompt], sampling, cancellationToken)[0];

    /// <summary>Completes several prompts, in batches of similar length.</summary>
    /// <inheritdoc cref="Generate(string, SamplingOptions?, CancellationToken)"/>
    /// <param name="prompts">Any texts.</param>
    /// <param name="sampling">How to draw; null for <see cref="Sampling"/>.</param>
    /// <param name="cancellationToken">Stops before the next token.</param>
    /// <returns>The new texts, without the prompts, in the order of the prompts.</returns>
    public IReadOnlyList<string> Generate(IReadOnlyList<string> prompts, SamplingOptions? sampling = null,
        CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(prompts);
        sampling ??= Sampling;
        sampling.Validate();
        var tokens = new int[prompts.Count][];
        for (int i = 0; i < tokens.Length; i++)
            tokens[i] = EncodePrompt(prompts[i], sampling);

        return [.. Sample(tokens, Tokenizer.EndOfText, sampling, cancellationToken).Select(sampled => Tokenizer.Decode(sampled.Tokens))];
    }

    /// <summary>The answers to prompts, in tokens, drawn with <see cref="Sampling"/>.</summary>
    internal IReadOnlyList<Episode> SampleEpisodes(TokenSequences prompts)
    {
        var tokens = Enumerable.Range(0, prompts.Count).Select(row => prompts[row].ToArray()).ToArray();
        return [.. Sample(tokens, Tokenizer.EndOfText, Sampling, CancellationToken.None)
            .Select((s, i) => new Episode(tokens[i], s.Tokens, s.LogProbabilities, s.Ended))];
    }

    /// <summary>
    /// Several answers to each prompt, in tokens, drawn with <see cref="Sampling"/>. Those to one prompt stand side by side, and the first
    /// of them is what <see cref="Generate(IReadOnlyList{string}, SamplingOptions?, CancellationToken)"/> gives.
    /// </summary>
    internal Episode[] SampleEpisodes(IReadOnlyList<string> prompts, int answersPerPrompt, CancellationToken cancellationToken = default)
    {
        int[][] tokens = [.. prompts.SelectMany(prompt => Enumerable.Repeat(EncodePrompt(prompt, Sampling), answersPerPrompt))];
        return [.. Sample(tokens, Tokenizer.EndOfText, Sampling, cancellationToken, answersPerPrompt)
            .Select((s, i) => new Episode(tokens[i], s.Tokens, s.LogProbabilities, s.Ended))];
    }

    /// <summary>Whether a prompt leaves room for an answer, or may be cut until it does.</summary>
    internal bool HasRoom(string prompt) =>
        Sampling.TruncatePrompts || Tokenization.EncodePrompt(Tokenizer, prompt).Length < Architecture.ContextLength;

    private SampledTokens[] Sample(
        int[][] prompts, StopTokens stop, SamplingOptions sampling, CancellationToken cancellationToken, int answersPerPrompt = 1) =>
        _model.Run(network => CompletionBatches.Draw(
            prompts, sampling.Seed,
            (batch, streams) => Sampler.Generate(
                network, batch, streams, stop, sampling, checkCanceled: cancellationToken.ThrowIfCancellationRequested),
            answersPerPrompt));

    /// <summary>Completes one prompt and gives the text as it comes, in pieces of whole characters.</summary>
    /// <param name="prompt">Any text.</param>
    /// <param name="sampling">How to draw; null for <see cref="Sampling"/>.</param>
    /// <param name="cancellationToken">Stops before the next piece. Leaving the enumeration stops it too.</param>
    /// <returns>Pieces that, put together, are what <see cref="Generate(string, SamplingOptions?, CancellationToken)"/> returns.</returns>
    /// <exception cref="ArgumentException">The prompt fills the model's context, and <see cref="SamplingOptions.TruncatePrompts"/> is
    /// false.</exception>
    public IAsyncEnumerable<string> GenerateStreamingAsync(
        string prompt, SamplingOptions? sampling = null, CancellationToken cancellationToken = default)
    {
        sampling ??= Sampling;
        sampling.Validate();
        // What is wrong with the arguments is reported at once.
        return Stream(EncodePrompt(prompt, sampling), Tokenizer.EndOfText, sampling, cancellationToken);
    }

    private async IAsyncEnumerable<string> Stream(
        int[] tokens, StopTokens stopTokens, SamplingOptions sampling, [EnumeratorCancellation] CancellationToken cancellationToken)
    {
        var pieces = Channel.CreateUnbounded<string>();
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        var work = Task.Run(() => Produce(stop.Token), CancellationToken.None);
        try
        {
            await foreach (string piece in pieces.Reader.ReadAllAsync(cancellationToken).ConfigureAwait(false))
            {
                cancellationToken.ThrowIfCancellationRequested(); // pieces that are waiting already are not wanted any more
                yield return piece;
            }
        }
        finally
        {
            await stop.CancelAsync().ConfigureAwait(false);
            await work.ConfigureAwait(false);
        }

        void Produce(CancellationToken stopped)
        {
            Exception? failure = null;
            try
            {
                var decoder = Tokenizer.CreateStreamingDecoder();
                _model.Run(network => Sampler.Generate(
                    network, [tokens], [CompletionBatches.RandomnessOf(tokens, sampling.Seed)], stopTokens, sampling,
                    onToken: (_, token) => Write(decoder.Push(token)), checkCanceled: stopped.ThrowIfCancellationRequested));
                Write(decoder.Finish());
            }
            catch (Exception e)
            {
                failure = e; // rethrown to the reader
            }
            pieces.Writer.Complete(failure);
        }

        void Write(string piece)
        {
            if (piece.Length > 0)
                pieces.Writer.TryWrite(piece);
        }
    }

    private int[] EncodePrompt(string prompt, SamplingOptions sampling)
    {
        ArgumentNullException.ThrowIfNull(prompt);
        return Shorten(Tokenization.EncodePrompt(Tokenizer, prompt), prompt, sampling);
    }

    /// <summary>The tokens of a prompt if they leave room for an answer, or the end of them if the options allow that.</summary>
    private int[] Shorten(int[] tokens, string prompt, SamplingOptions sampling)
    {
        int room = Architecture.ContextLength - 1;
        if (tokens.Length <= room)
            return tokens;
        if (sampling.TruncatePrompts)
            return tokens[0] == Tokenizer.BeginningOfText ? [tokens[0], .. tokens[^(room - 1)..]] : tokens[^room..];
        throw _environment.Process(new ArgumentException(
            $"The prompt '{Texts.Shorten(prompt)}' has {tokens.Length} tokens, but the model's context is {Architecture.ContextLength} " +
            "tokens and must hold the completion too. Shorten the prompt, set " +
            $"{nameof(SamplingOptions)}.{nameof(SamplingOptions.TruncatePrompts)} to keep its end, or use a model with a longer context.",
            nameof(prompt)));
    }

    /// <summary>How much each token of a text looks at each other one, in every layer and head: for teaching.</summary>
    /// <param name="text">Any text that fits the model's context; an empty one is the end token alone.</param>
    /// <exception cref="ArgumentException">The text does not fit the model's context.</exception>
    /// <exception cref="NotSupportedException">The model has no attention.</exception>
    public AttentionWeights GetAttentionWeights(string text) =>
        _model.Run(network => AttentionWeights.Of(network, Tokenizer, EncodePrompt(text, Sampling with { TruncatePrompts = false })));

    /// <summary>
    /// Writes the model into a folder in Hugging Face's layout: <c>config.json</c>, <c>model.safetensors</c> (shards of 5 GB where it is
    /// larger), <c>generation_config.json</c>, the tokenizer and the chat template. Transformers loads it, with the same logits; so does
    /// <see cref="ModelCatalog.FromPretrained"/>.
    /// </summary>
    /// <param name="folder">Made if it does not exist; a model that is there is replaced.</param>
    /// <param name="weights">Type of the numbers in the file.</param>
    /// <exception cref="NotSupportedException">Transformers has no model of this shape, or no tokenizer of this kind.</exception>
    /// <exception cref="IOException">The files cannot be written.</exception>
    public void SavePretrained(string folder, WeightType weights = WeightType.Float32)
    {
        Tokenizer.SavePretrained(folder); // first: it refuses tokenizers that have no such form
        _model.Use(network => Pretrained.Save(network, folder, weights, Tokenizer.EndOfText, Tokenizer.BeginningOfText));
        PretrainedSampling.Write(Sampling, Tokenizer, folder);
        ChatTemplateFiles.Write(ChatTemplate, folder);
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
        if (Conversations is not null)
        {
            Conversations.Require(_environment, Schemas.Shape(inputSchema));
            return AnswerColumn(Conversations);
        }
        TextColumns.RequireText(_environment, inputSchema, "prompt", PromptColumnName);
        return new BatchedColumns<ReadOnlyMemory<char>>(
            CompletionColumnName, TextDataViewType.Instance, [PromptColumnName], CompletionBatches.Size,
            rows => [.. Generate([.. rows.Select(row => row[0])]).Select(completion => completion.AsMemory())]);
    }

    /// <summary>Frees the weights, unless another transformer shares them.</summary>
    public void Dispose() => _model.Dispose();

    static string IModelComponent<TextGenerationTransformer>.Id => "TextGeneration";

    static int IModelComponent<TextGenerationTransformer>.Version => 3; // 2: the sampling options after TruncatePrompts; 3: chat

    void ICanSaveModel.Save(ModelSaveContext ctx) => ModelStore.Save(ctx, this);

    void IModelComponent<TextGenerationTransformer>.Save(ModelWriter writer)
    {
        writer.Main.Write(PromptColumnName);
        writer.Main.Write(CompletionColumnName);
        SavedSampling.Write(writer, Sampling);
        _model.Save(writer);
        SaveChat(writer);
    }

    static TextGenerationTransformer IModelComponent<TextGenerationTransformer>.Load(IHostEnvironment env, ModelReader reader)
    {
        if (reader.Version < 2)
            throw new FormatException($"The model was saved by a preview of this package, in format {reader.Version}, which had fewer " +
                "sampling options and is not read any more. Train or save the model again with this package.");
        string prompt = reader.Main.ReadString(), completion = reader.Main.ReadString();
        var sampling = SavedSampling.Read(reader);
        var model = LanguageModel<CausalLanguageModel>.Load(env, reader, architecture => CausalLanguageModel.Create(architecture));
        try
        {
            var (template, conversations) = LoadChat(reader);
            return new TextGenerationTransformer(env, model, prompt, completion, sampling, template, conversations);
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }
}
