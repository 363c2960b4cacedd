using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;
using ML.Rlhf.Bridge;
using ML.Rlhf.Torch.Training;
using TorchSharp;

namespace ML.Rlhf;

/// <summary>
/// Aligns a language model with preferences directly, without a reward model and without sampling: direct preference optimisation
/// (Rafailov et al. 2023).
/// </summary>
/// <remarks>
/// | | |
/// |-|-|
/// | Task | preference learning: the chosen answer becomes more likely than the rejected one, near the model that training starts from |
/// | Input | three text columns: prompt, chosen and rejected answer |
/// | Output | <see cref="TextGenerationTransformer"/>: a text column with the completion |
/// | Passes over the data | one, to tokenize it; tokens are kept in memory, 2 bytes each, or 4 with more than 65,536 ids |
/// | Networks in memory | one: what the reference says is computed before training |
/// | The given model | is copied, or shared with <see cref="FineTuningOptions.Lora"/>, and stays as it is |
/// </remarks>
public sealed class DpoTrainer : IEstimator<TextGenerationTransformer>
{
    private readonly TrainerHost _host;
    private readonly TextGenerationTransformer _model;
    private readonly DpoOptions _options;

    internal DpoTrainer(IHostEnvironment environment, TextGenerationTransformer model, DpoOptions options)
    {
        options.ValidateFor(model);
        _host = new TrainerHost(environment, nameof(DpoTrainer));
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

        return _host.Train("DPO", _options, run =>
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
                module => DpoTraining.Run(module, preferences, validation, _options, run),
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
