using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;
using ML.Rlhf.Bridge;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf;

/// <summary>Trains a model that scores answers as people would, from pairs of which they preferred one: step 2 of InstructGPT.</summary>
/// <remarks>
/// | | |
/// |-|-|
/// | Task | preference learning: the chosen answer scores higher (Bradley–Terry) |
/// | Input | three text columns: prompt, chosen and rejected answer |
/// | Output | <see cref="RewardTransformer"/>: a column with the score of an answer |
/// | Passes over the data | one, to tokenize it; tokens are kept in memory, 4 bytes each |
/// | The given model | is copied, the copy gets a scalar head, and it stays as it is |
/// </remarks>
public sealed class RewardModelTrainer : IEstimator<RewardTransformer>
{
    private readonly TrainerHost _host;
    private readonly TextGenerationTransformer _model;
    private readonly RewardModelOptions _options;

    internal RewardModelTrainer(IHostEnvironment environment, TextGenerationTransformer model, RewardModelOptions options)
    {
        options.Validate();
        _host = new TrainerHost(environment, nameof(RewardModelTrainer));
        _model = model;
        _options = options;
    }

    /// <summary>The columns of the preferences and the score.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    public SchemaShape GetOutputSchema(SchemaShape inputSchema)
    {
        ArgumentNullException.ThrowIfNull(inputSchema);
        RequireColumns(inputSchema);
        return Schemas.With(inputSchema, Schemas.Column(_options.ScoreColumnName, NumberDataViewType.Single));
    }

    /// <summary>Trains a scalar head and a copy of the model below it.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    /// <exception cref="InvalidOperationException">There are no preferences that fit the model.</exception>
    /// <exception cref="OperationCanceledException">The run was stopped.</exception>
    public RewardTransformer Fit(IDataView input)
    {
        ArgumentNullException.ThrowIfNull(input);
        RequireColumns(Schemas.Shape(input.Schema));
        if (_options.ValidationData is { } held)
            RequireColumns(Schemas.Shape(held.Schema), "validation ");

        return _host.Train("Reward model", _options, run =>
        {
            PreferenceData Read(IDataView data) => Tokenization.Preferences(
                data, _options.PromptColumnName, _options.ChosenColumnName, _options.RejectedColumnName, _model.Tokenizer,
                _model.Architecture.ContextLength, run.Warn, _options.CancellationToken);
            var preferences = Read(input);
            var validation = _options.ValidationData is { } data ? Read(data) : null;
            run.Log($"{preferences.Count} preferences, " +
                $"{preferences.Chosen.Sequences.TokenCount + preferences.Rejected.Sequences.TokenCount} tokens.");

            using var generator = new Generator(run.Seed, CPU);
            return LanguageModel.Build(
                new ScalarGpt(_model.Gpt.Clone().cpu(), generator).to(run.Device), _model.Tokenizer, _model.Architecture,
                module => RewardModelTraining.Run(module, preferences, validation, _options, run),
                model => new RewardTransformer(
                    _host.Environment, model, _options.PromptColumnName, _options.CompletionColumnName, _options.ChosenColumnName,
                    _options.ScoreColumnName));
        });
    }

    private void RequireColumns(SchemaShape schema, string of = "")
    {
        TextColumns.RequireText(_host.Host, schema, of + "prompt", _options.PromptColumnName);
        TextColumns.RequireText(_host.Host, schema, of + "chosen", _options.ChosenColumnName);
        TextColumns.RequireText(_host.Host, schema, of + "rejected", _options.RejectedColumnName);
    }
}
