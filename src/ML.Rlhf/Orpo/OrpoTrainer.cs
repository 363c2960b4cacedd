using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;
using ML.Rlhf.Bridge;
using ML.Rlhf.Torch.Training;
using TorchSharp;

namespace ML.Rlhf;

/// <summary>
/// Fine-tunes a language model on preferred answers and away from the others at once: odds-ratio preference optimisation (Hong et al.
/// 2024).
/// </summary>
/// <remarks>
/// | | |
/// |-|-|
/// | Task | imitation of the chosen answers, with a penalty where the rejected ones are as likely |
/// | Input | three text columns: prompt, chosen and rejected answer |
/// | Output | <see cref="TextGenerationTransformer"/>: a text column with the completion |
/// | Passes over the data | one, to tokenize it; tokens are kept in memory, 2 bytes each, or 4 with more than 65,536 ids |
/// | Networks in memory | one: there is no reference |
/// | The given model | is copied, or shared with adapters, and stays as it is; it may be a pretrained one, without fine-tuning before |
/// </remarks>
public sealed class OrpoTrainer : IEstimator<TextGenerationTransformer>
{
    private readonly TrainerHost _host;
    private readonly TextGenerationTransformer _model;
    private readonly OrpoOptions _options;

    internal OrpoTrainer(IHostEnvironment environment, TextGenerationTransformer model, OrpoOptions options)
    {
        options.ValidateFor(model);
        _host = new TrainerHost(environment, nameof(OrpoTrainer));
        _model = model;
        _options = options;
    }

    /// <summary>The columns of the preferences and the completion.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such column, or it has another type.</exception>
    public SchemaShape GetOutputSchema(SchemaShape inputSchema)
    {
        ArgumentNullException.ThrowIfNull(inputSchema);
        RequireColumns(inputSchema);
        return Schemas.With(inputSchema, Schemas.Column(_options.CompletionColumnName, TextDataViewType.Instance));
    }

    /// <summary>Trains a copy of the model, or adapters beside it.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such column, or it has another type.</exception>
    /// <exception cref="InvalidOperationException">There are no preferences that fit the model.</exception>
    /// <exception cref="OperationCanceledException">The run was stopped.</exception>
    public TextGenerationTransformer Fit(IDataView input)
    {
        ArgumentNullException.ThrowIfNull(input);
        RequireColumns(Schemas.Shape(input.Schema));
        if (_options.ValidationData is { } held)
            RequireColumns(Schemas.Shape(held.Schema), "validation ");

        return _host.Train("ORPO", _options, run =>
        {
            PreferenceData Read(IDataView data) => Tokenization.Preferences(
                data, _options.PromptColumnName, _options.ChosenColumnName, _options.RejectedColumnName, _model.Tokenizer,
                _model.Architecture.ContextLength, run.Warn, run.ThrowIfCanceled);
            var preferences = Read(input);
            var validation = _options.ValidationData is { } data ? Read(data) : null;
            run.Log($"{preferences.Count} preferences, " +
                $"{preferences.Chosen.Sequences.TokenCount + preferences.Rejected.Sequences.TokenCount} tokens.");

            return LanguageModel.Build(
                _model.Use(network => FineTuning.Begin(network, _options, run)), _model.Tokenizer, _model.Architecture,
                module => OrpoTraining.Run(module, preferences, validation, _options, run),
                model => new TextGenerationTransformer(
                    _host.Environment, model, _options.PromptColumnName, _options.CompletionColumnName,
                    _options.Sampling ?? _model.Sampling, _model.ChatTemplate));
        });
    }

    private void RequireColumns(SchemaShape schema, string of = "")
    {
        TextColumns.RequireText(_host.Host, schema, of + "prompt", _options.PromptColumnName);
        TextColumns.RequireText(_host.Host, schema, of + "chosen", _options.ChosenColumnName);
        TextColumns.RequireText(_host.Host, schema, of + "rejected", _options.RejectedColumnName);
    }
}
