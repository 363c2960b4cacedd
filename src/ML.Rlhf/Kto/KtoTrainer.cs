using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;
using ML.Rlhf.Bridge;
using ML.Rlhf.Torch.Training;
using TorchSharp;

namespace ML.Rlhf;

/// <summary>
/// Aligns a language model with answers that people judged one by one, good or bad: Kahneman–Tversky optimisation (Ethayarajh et al.
/// 2024).
/// </summary>
/// <remarks>
/// | | |
/// |-|-|
/// | Task | desirable answers become more likely, undesirable ones less, near the model that training starts from |
/// | Input | two text columns, prompt and completion, and a Boolean column, the label |
/// | Output | <see cref="TextGenerationTransformer"/>: a text column with the completion |
/// | Passes over the data | one, to tokenize it; tokens are kept in memory, 8 bytes each |
/// | Networks in memory | one: what the reference says is computed before training |
/// | The given model | is copied, or shared with <see cref="FineTuningOptions.Lora"/>, and stays as it is |
/// </remarks>
public sealed class KtoTrainer : IEstimator<TextGenerationTransformer>
{
    private readonly TrainerHost _host;
    private readonly TextGenerationTransformer _model;
    private readonly KtoOptions _options;

    internal KtoTrainer(IHostEnvironment environment, TextGenerationTransformer model, KtoOptions options)
    {
        options.ValidateFor(model);
        _host = new TrainerHost(environment, nameof(KtoTrainer));
        _model = model;
        _options = options;
    }

    /// <summary>The columns of the answers; the completions are then the model's.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such column, or it has another type.</exception>
    public SchemaShape GetOutputSchema(SchemaShape inputSchema)
    {
        ArgumentNullException.ThrowIfNull(inputSchema);
        RequireColumns(inputSchema);
        return Schemas.With(inputSchema, Schemas.Column(_options.CompletionColumnName, TextDataViewType.Instance));
    }

    /// <summary>Trains a copy of the model, or adapters beside it.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such column, or it has another type.</exception>
    /// <exception cref="InvalidOperationException">There are no judged answers that fit the model.</exception>
    /// <exception cref="OperationCanceledException">The run was stopped.</exception>
    public TextGenerationTransformer Fit(IDataView input)
    {
        ArgumentNullException.ThrowIfNull(input);
        RequireColumns(Schemas.Shape(input.Schema));
        if (_options.ValidationData is { } held)
            RequireColumns(Schemas.Shape(held.Schema), "validation ");

        return _host.Train("KTO", _options, run =>
        {
            FeedbackData Read(IDataView data) => Tokenization.Feedback(
                data, _options.PromptColumnName, _options.CompletionColumnName, _options.LabelColumnName, _model.Tokenizer,
                _model.Architecture.ContextLength, run.Warn, run.ThrowIfCanceled);
            var feedback = Read(input);
            var validation = _options.ValidationData is { } data ? Read(data) : null;
            run.Log($"{feedback.Count} judged answers, {feedback.Desirable.Count(label => label)} of them desirable, " +
                $"{feedback.Answers.Sequences.TokenCount} tokens.");

            return LanguageModel.Build(
                _model.Use(network => FineTuning.Begin(network, _options, run)), _model.Tokenizer, _model.Architecture,
                module => KtoTraining.Run(module, feedback, validation, _options, run),
                model => new TextGenerationTransformer(
                    _host.Environment, model, _options.PromptColumnName, _options.CompletionColumnName,
                    _options.Sampling ?? _model.Sampling, _model.ChatTemplate));
        });
    }

    private void RequireColumns(SchemaShape schema, string of = "")
    {
        TextColumns.RequireText(_host.Host, schema, of + "prompt", _options.PromptColumnName);
        TextColumns.RequireText(_host.Host, schema, of + "completion", _options.CompletionColumnName);
        TextColumns.RequireBoolean(_host.Host, schema, of + "label", _options.LabelColumnName);
    }
}
