using System.Text.Json;
using ML.Rlhf;
using ML.Rlhf.Bridge;
using ML.Rlhf.Torch.Checkpoints;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;
using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;
using TorchSharp;

[assembly: ModelComponent(typeof(RewardTransformer))]

namespace ML.Rlhf;

/// <summary>
/// A reward model: adds the score of an answer to a prompt. Higher is better; what 0 and 1 mean,
/// <see cref="RewardModelHyperparameters.Normalization"/> has decided.
/// </summary>
/// <remarks>Lazy: the model runs when a score is asked for, for a batch of rows at a time.</remarks>
public sealed partial class RewardTransformer : ITransformer, IDisposable, IModelComponent<RewardTransformer>
{
    internal const string DefaultScoreColumn = "Score";
    private const string NormalizationEntry = "normalization.json";
    private const int BatchSize = 64;

    private readonly IHostEnvironment _environment;
    private readonly LanguageModel<ScalarGpt> _model;
    private readonly string _chosenColumnName;
    private readonly string? _answersColumnName;

    internal RewardTransformer(
        IHostEnvironment environment, LanguageModel<ScalarGpt> model, string promptColumnName, string completionColumnName,
        string chosenColumnName, string? answersColumnName, string scoreColumnName)
    {
        _environment = environment;
        _model = model;
        _chosenColumnName = chosenColumnName;
        _answersColumnName = answersColumnName;
        PromptColumnName = promptColumnName;
        CompletionColumnName = completionColumnName;
        ScoreColumnName = scoreColumnName;
    }

    /// <summary>The text column of prompts.</summary>
    public string PromptColumnName { get; }

    /// <summary>
    /// The text column of the answers to score. Data without it, such as the preferences that a pipeline is fitted on, has its chosen
    /// answers scored or, where it has a vector of answers, all of them: the score is then a vector, too.
    /// </summary>
    public string CompletionColumnName { get; }

    /// <summary>The column that is added.</summary>
    public string ScoreColumnName { get; }

    /// <summary>How the model cuts text into tokens.</summary>
    public TextTokenizer Tokenizer => _model.Tokenizer;

    /// <summary>The shape of the model below the scalar head.</summary>
    public LanguageModelArchitecture Architecture => _model.Architecture;

    /// <summary>
    /// What the learned score was multiplied with to normalise it. The difference of two scores, divided by it, is the log-odds that people
    /// prefer the first answer.
    /// </summary>
    public double Gain => _model.Module.Gain;

    /// <summary>What was added after that: score = <see cref="Gain"/>·learned + Bias.</summary>
    public double Bias => _model.Module.Bias;

    /// <summary>
    /// The network itself, for what this package does not do. It belongs to this transformer: do not dispose or train it.
    /// </summary>
    public torch.nn.Module Module => _model.Module;

    /// <inheritdoc cref="LanguageModel{TModule}.Use{TResult}"/>
    internal TResult Use<TResult>(Func<ScalarGpt, TResult> read) => _model.Use(read);

    /// <summary>The same model once more. It shares the weights; each of the two is disposed on its own.</summary>
    internal RewardTransformer Share() =>
        new(_environment, _model.Share(), PromptColumnName, CompletionColumnName, _chosenColumnName, _answersColumnName, ScoreColumnName);

    /// <summary>Scores one answer.</summary>
    /// <param name="prompt">The prompt; may be empty.</param>
    /// <param name="completion">The answer; an empty one is scored too.</param>
    /// <returns>The score; higher is better.</returns>
    /// <exception cref="ArgumentException">Prompt and answer do not fit the model's context.</exception>
    public float Score(string prompt, string completion) => Score([(prompt, completion)])[0];

    /// <summary>Scores several answers.</summary>
    /// <param name="answers">Prompts with an answer each.</param>
    /// <returns>One score each, in the same order.</returns>
    /// <exception cref="ArgumentException">A prompt with its answer does not fit the model's context.</exception>
    public IReadOnlyList<float> Score(IReadOnlyList<(string Prompt, string Completion)> answers)
    {
        ArgumentNullException.ThrowIfNull(answers);
        var sequences = new TokenSequences();
        foreach (var (prompt, completion) in answers)
            sequences.Add(Encode(prompt, completion));
        return Array.ConvertAll(_model.Run(network => RewardScoring.Score(network, sequences)), score => (float)score);
    }

    /// <param name="prompt">The prompt.</param>
    /// <param name="completion">Its answer.</param>
    /// <param name="ended">Whether the answer is over; one that was cut off has no end token.</param>
    internal int[] Encode(string prompt, string completion, bool ended = true)
    {
        ArgumentNullException.ThrowIfNull(prompt);
        ArgumentNullException.ThrowIfNull(completion);
        int[] end = ended ? [Tokenizer.EndOfText] : [];
        int[] tokens = [.. Tokenization.EncodePrompt(Tokenizer, prompt), .. Tokenizer.Encode(completion), .. end];
        return tokens.Length <= Architecture.ContextLength
            ? tokens
            : throw _environment.Process(new ArgumentException(
                $"The prompt '{Texts.Shorten(prompt)}' with its answer has {tokens.Length} tokens, but the reward model's context is " +
                $"{Architecture.ContextLength}. Shorten them, or train the reward model from a model with a longer " +
                "context.", nameof(completion)));
    }

    /// <summary>
    /// Writes the model into a folder in Hugging Face's layout, as a sequence classifier with one label. The gain is multiplied into its
    /// head. Transformers' heads have no bias: there, scores differ by a constant, and preferences by nothing.
    /// </summary>
    /// <param name="folder">Made if it does not exist; a model that is there is replaced.</param>
    /// <param name="weights">Type of the numbers in the file.</param>
    /// <exception cref="NotSupportedException">Transformers has no model of this shape, or no tokenizer of this kind.</exception>
    /// <exception cref="IOException">The files cannot be written.</exception>
    public void SavePretrained(string folder, WeightType weights = WeightType.Float32)
    {
        Tokenizer.SavePretrained(folder); // first: it refuses tokenizers that have no such form
        _model.Use(network => Pretrained.Save(network, folder, weights, Tokenizer.EndOfText, Tokenizer.BeginningOfText));
        ChatTemplateFiles.Write(template: null, folder); // what a model before left there
    }

    /// <summary>True: a row of the output needs one row of the input.</summary>
    public bool IsRowToRowMapper => true;

    /// <summary>The columns of the input and the score.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    public DataViewSchema GetOutputSchema(DataViewSchema inputSchema) => Column(inputSchema).Map(inputSchema).OutputSchema;

    /// <summary>The input with the score; the model runs when it is read.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    public IDataView Transform(IDataView input)
    {
        ArgumentNullException.ThrowIfNull(input);
        return Column(input.Schema).AddTo(input);
    }

    /// <summary>The mapping for single rows, which a prediction engine uses.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    public IRowToRowMapper GetRowToRowMapper(DataViewSchema inputSchema) => Column(inputSchema).Map(inputSchema);

    private IBatchedColumns Column(DataViewSchema inputSchema)
    {
        ArgumentNullException.ThrowIfNull(inputSchema);
        bool Has(string name) => inputSchema.GetColumnOrNull(name) is not null;
        TextColumns.RequireText(_environment, inputSchema, "prompt", PromptColumnName);
        if (ScoresAllAnswers(Has, CompletionColumnName, _chosenColumnName, _answersColumnName))
        {
            TextColumns.RequireTexts(_environment, Schemas.Shape(inputSchema), "answers", _answersColumnName!);
            var scores = ComputedColumn<VBuffer<float>>.Of(
                ScoreColumnName, ScoreType(ofAllAnswers: true),
                (VBuffer<float> all) => new VBuffer<float>(all.Length, all.GetValues().ToArray())); // a reader may write into it
            return new BatchedColumns<VBuffer<float>>([PromptColumnName, _answersColumnName!], BatchSize, ScoreAll, scores);
        }
        string completion = !Has(CompletionColumnName) && Has(_chosenColumnName) ? _chosenColumnName : CompletionColumnName;
        TextColumns.RequireText(_environment, inputSchema, "completion", completion);
        return new BatchedColumns<float>(
            ScoreColumnName, ScoreType(ofAllAnswers: false), [PromptColumnName, completion], BatchSize,
            rows => Score([.. rows.Select(row => (row[0], row[1]))]));
    }

    /// <summary>Scores of rows of a prompt and its answers, all answers at once.</summary>
    private VBuffer<float>[] ScoreAll(IReadOnlyList<string[]> rows)
    {
        var scores = new Queue<float>(Score([.. rows.SelectMany(row => row[1..], (row, answer) => (row[0], answer))]));
        return [.. rows.Select(row => new VBuffer<float>(row.Length - 1, [.. row[1..].Select(_ => scores.Dequeue())]))];
    }

    /// <summary>Whether the score of such data is a vector: it has no single answer to score, but a vector of them.</summary>
    internal static bool ScoresAllAnswers(Func<string, bool> has, string completion, string chosen, string? answers) =>
        answers is not null && !has(completion) && !has(chosen) && has(answers);

    internal static DataViewType ScoreType(bool ofAllAnswers) =>
        ofAllAnswers ? new VectorDataViewType(NumberDataViewType.Single) : NumberDataViewType.Single;

    /// <summary>Frees the weights, unless another transformer shares them.</summary>
    public void Dispose() => _model.Dispose();

    static string IModelComponent<RewardTransformer>.Id => "Reward";

    static int IModelComponent<RewardTransformer>.Version => 2;

    void ICanSaveModel.Save(ModelSaveContext ctx) => ModelStore.Save(ctx, this);

    void IModelComponent<RewardTransformer>.Save(ModelWriter writer)
    {
        writer.Main.Write(PromptColumnName);
        writer.Main.Write(CompletionColumnName);
        writer.Main.Write(_chosenColumnName);
        writer.Main.Write(_answersColumnName ?? "");
        writer.Main.Write(ScoreColumnName);
        LanguageModel<ScalarGpt>.WriteEntry(
            writer, NormalizationEntry, stream => JsonSerializer.Serialize(stream, new Normalization(Gain, Bias)));
        _model.Save(writer);
    }

    static RewardTransformer IModelComponent<RewardTransformer>.Load(IHostEnvironment env, ModelReader reader)
    {
        if (reader.Version < 2)
            throw env.Process(new FormatException(
                $"Model component 'Reward' version {reader.Version} has gain and bias inside its head, which is not read any more. Train " +
                "the reward model again, and save it."));
        string prompt = reader.Main.ReadString(), completion = reader.Main.ReadString(), chosen = reader.Main.ReadString(),
            answers = reader.Main.ReadString(), score = reader.Main.ReadString();
        var (gain, bias) = ReadNormalization(reader);
        var model = LanguageModel<ScalarGpt>.Load(env, reader, architecture =>
        {
            var module = new ScalarGpt(CausalLanguageModel.Create(architecture), generator: null);
            module.Normalize(gain, bias);
            return module;
        });
        return new RewardTransformer(env, model, prompt, completion, chosen, answers.Length > 0 ? answers : null, score);
    }

    private static Normalization ReadNormalization(ModelReader reader)
    {
        byte[] json = [];
        LanguageModel<ScalarGpt>.ReadEntry(reader, NormalizationEntry, (stream, _) => json = LanguageModel<ScalarGpt>.ReadAll(stream));
        try
        {
            return JsonSerializer.Deserialize<Normalization>(json) is { Gain: > 0 and < double.PositiveInfinity } read
                && double.IsFinite(read.Bias)
                ? read
                : throw new JsonException("the gain must be a finite number above 0, and the bias a finite number.");
        }
        catch (JsonException e)
        {
            throw new FormatException($"{NormalizationEntry} is damaged: {e.Message} Save the model again.");
        }
    }

    /// <summary>The content of <see cref="NormalizationEntry"/>.</summary>
    private sealed record Normalization(double Gain, double Bias);
}
