using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;
using ML.Rlhf.Bridge;
using ML.Rlhf.Torch.Training;
using TorchSharp;

namespace ML.Rlhf;

/// <summary>Fine-tunes a language model on prompts and the completions that people wrote for them: step 1 of InstructGPT.</summary>
/// <remarks>
/// | | |
/// |-|-|
/// | Task | imitation: predict the completion's tokens, and where it ends |
/// | Input | two text columns, prompt and completion; or conversations, as JSON texts or as two vectors of texts |
/// | Output | <see cref="TextGenerationTransformer"/>: a text column with the completion |
/// | Passes over the data | one, to tokenize it; tokens are kept in memory, 2 bytes each, or 4 with more than 65,536 ids |
/// | The given model | is copied, or shared with <see cref="FineTuningOptions.Lora"/>, and stays as it is |
/// </remarks>
public sealed class SupervisedFineTuningTrainer : IEstimator<TextGenerationTransformer>
{
    private readonly TrainerHost _host;
    private readonly TextGenerationTransformer _model;
    private readonly SupervisedFineTuningOptions _options;
    private readonly ChatTemplate? _template;
    private readonly ChatEncoder? _chat; // for conversations only

    internal SupervisedFineTuningTrainer(IHostEnvironment environment, TextGenerationTransformer model, SupervisedFineTuningOptions options)
    {
        options.ValidateFor(model);
        _host = new TrainerHost(environment, nameof(SupervisedFineTuningTrainer));
        _model = model;
        _options = options;
        _template = options.ChatTemplate ?? model.ChatTemplate;
        if (options.Conversations is not null)
            _chat = CreateEncoder(_template, model.Tokenizer);
    }

    /// <exception cref="ArgumentException">There is no template, or it has no end that a model could learn.</exception>
    private static ChatEncoder CreateEncoder(ChatTemplate? template, TextTokenizer tokenizer)
    {
        const string Name = nameof(SupervisedFineTuningOptions);
        if (template is null)
            throw new ArgumentException(
                $"{Name}: {nameof(ChatTemplate)} is null and the model has none, but conversations need one. Choose one of " +
                "Rlhf().ChatTemplates: HumanAssistant() fits a tokenizer that has no special token but the end of text.");
        var encoder = new ChatEncoder(template, tokenizer);
        return encoder.EndOfTurn is not null ? encoder : throw new ArgumentException(
            $"{Name}: {nameof(ChatTemplate)} ends what the assistant says with no special token of the model's tokenizer (which has " +
            $"{string.Join(", ", tokenizer.SpecialTokens.Keys)}), so the model would never learn to stop. Use a template that ends " +
            "it with one of these, as HumanAssistant() does.");
    }

    /// <summary>The columns of the demonstrations; the completions are then the model's.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    public SchemaShape GetOutputSchema(SchemaShape inputSchema)
    {
        ArgumentNullException.ThrowIfNull(inputSchema);
        RequireColumns(inputSchema);
        return Schemas.With(inputSchema, Schemas.Column(_options.CompletionColumnName, TextDataViewType.Instance));
    }

    /// <summary>Trains a copy of the model, or adapters beside it.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    /// <exception cref="InvalidOperationException">There are no demonstrations that fit the model.</exception>
    /// <exception cref="OperationCanceledException">The run was stopped.</exception>
    public TextGenerationTransformer Fit(IDataView input)
    {
        ArgumentNullException.ThrowIfNull(input);
        RequireColumns(Schemas.Shape(input.Schema));
        if (_options.ValidationData is { } held)
            RequireColumns(Schemas.Shape(held.Schema), "validation ");

        return _host.Train("SFT", _options, run =>
        {
            int context = _model.Architecture.ContextLength;
            CompletionData Read(IDataView data) => _chat is not null
                ? Tokenization.Conversations(data, _options.Conversations!, _chat, context, run.Warn, run.ThrowIfCanceled)
                : Tokenization.Demonstrations(
                    data, _options.PromptColumnName, _options.CompletionColumnName, _model.Tokenizer, context, run.Warn,
                    run.ThrowIfCanceled);
            var demonstrations = Read(input);
            var validation = _options.ValidationData is { } data ? Read(data) : null;
            run.Log($"{demonstrations.Count} demonstrations, {demonstrations.Sequences.TokenCount} tokens.");

            return LanguageModel.Build(
                _model.Use(network => FineTuning.Begin(network, _options, run)), _model.Tokenizer, _model.Architecture,
                module => SupervisedFineTuning.Run(module, demonstrations, validation, _options, run),
                model => new TextGenerationTransformer(
                    _host.Environment, model, _options.PromptColumnName, _options.CompletionColumnName,
                    _options.Sampling ?? _model.Sampling, _template, _options.Conversations));
        });
    }

    private void RequireColumns(SchemaShape schema, string of = "")
    {
        if (_options.Conversations is { } conversations)
        {
            conversations.Require(_host.Host, schema, of);
            return;
        }
        TextColumns.RequireText(_host.Host, schema, of + "prompt", _options.PromptColumnName);
        TextColumns.RequireText(_host.Host, schema, of + "completion", _options.CompletionColumnName);
    }
}
