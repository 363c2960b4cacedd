using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;
using ML.Rlhf.Bridge;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf;

/// <summary>Trains a model that scores answers as people would, from answers that they ranked: step 2 of InstructGPT.</summary>
/// <remarks>
/// | | |
/// |-|-|
/// | Task | preference learning: the better of two answers scores higher (Bradley–Terry) |
/// | Input | three text columns: prompt, chosen and rejected answer; or a prompt, a vector of answers, and one of ranks or ratings |
/// | Output | <see cref="RewardTransformer"/>: a column with the score of an answer, gain and bias included |
/// | Passes over the data | one, to tokenize it; tokens are kept in memory, 2 bytes each, or 4 with more than 65,536 ids |
/// | The given model | is copied, or shared with <see cref="FineTuningOptions.Lora"/>, and stays as it is; the copy gets a scalar head |
/// </remarks>
public sealed class RewardModelTrainer : IEstimator<RewardTransformer>
{
    private readonly TrainerHost _host;
    private readonly TextGenerationTransformer _model;
    private readonly RewardModelOptions _options;

    internal RewardModelTrainer(IHostEnvironment environment, TextGenerationTransformer model, RewardModelOptions options)
    {
        options.ValidateFor(model);
        _host = new TrainerHost(environment, nameof(RewardModelTrainer));
        _model = model;
        _options = options;
    }

    /// <summary>The columns of the preferences and the score.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    public SchemaShape GetOutputSchema(SchemaShape inputSchema)
    {
        ArgumentNullException.ThrowIfNull(inputSchema);
        _options.PreferenceColumns.Require(_host.Host, inputSchema);
        bool scoresAll = RewardTransformer.ScoresAllAnswers(
            name => inputSchema.Any(column => column.Name == name), _options.CompletionColumnName, _options.ChosenColumnName,
            _options.AnswersColumnName);
        return Schemas.With(inputSchema, Schemas.Column(_options.ScoreColumnName, RewardTransformer.ScoreType(scoresAll)));
    }

    /// <summary>Trains a scalar head and a copy of the model below it.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    /// <exception cref="InvalidOperationException">There are no preferences that fit the model.</exception>
    /// <exception cref="OperationCanceledException">The run was stopped.</exception>
    public RewardTransformer Fit(IDataView input)
    {
        ArgumentNullException.ThrowIfNull(input);
        var columns = _options.PreferenceColumns;
        columns.Require(_host.Host, Schemas.Shape(input.Schema));
        if (_options.ValidationData is { } held)
            columns.Require(_host.Host, Schemas.Shape(held.Schema), "validation ");
        if (_options.Demonstrations is { } demonstrations)
        {
            TextColumns.RequireText(_host.Host, demonstrations.Schema, "demonstrations' prompt", _options.PromptColumnName);
            TextColumns.RequireText(_host.Host, demonstrations.Schema, "demonstrations' completion", _options.CompletionColumnName);
        }

        return _host.Train("Reward model", _options, run =>
        {
            RankingData Read(IDataView data) => Tokenization.Rankings(
                data, columns, _model.Tokenizer, _model.Architecture.ContextLength, run.Warn, run.ThrowIfCanceled);
            var rankings = Read(input);
            var validation = _options.ValidationData is { } data ? Read(data) : null;
            var answers = rankings.Answers.Sequences;
            run.Log($"{rankings.Count} preferences, {answers.Count} answers, {answers.TokenCount} tokens.");

            using var generator = new Generator(run.Seed, CPU);
            return LanguageModel.Build(
                _model.Use(network => new ScalarGpt(FineTuning.BeginTrunk(network, _options, run), generator)), _model.Tokenizer,
                _model.Architecture,
                module => RewardModelTraining.Run(module, rankings, validation, NormalizationTexts(rankings, run), _options, run),
                model => new RewardTransformer(
                    _host.Environment, model, _options.PromptColumnName, _options.CompletionColumnName, _options.ChosenColumnName,
                    _options.AnswersColumnName, _options.ScoreColumnName));
        });
    }

    /// <summary>What scores are measured against, where it is not the answers themselves.</summary>
    private TokenSequences? NormalizationTexts(RankingData rankings, TrainingRun run) => _options.Normalization switch
    {
        ScoreNormalization.Demonstrations => Tokenization.Demonstrations(
            _options.Demonstrations!, _options.PromptColumnName, _options.CompletionColumnName, _model.Tokenizer,
            _model.Architecture.ContextLength, run.Warn, run.ThrowIfCanceled).Sequences,
        ScoreNormalization.PolicySamples => _model.Use(network => NormalizationSamples.Draw(
            network, rankings, PolicySampling(_model.Sampling), _model.Tokenizer.EndOfText, run)),
        _ => null,
    };

    /// <summary>As PPO will sample: from all tokens.</summary>
    private static SamplingOptions PolicySampling(SamplingOptions model) => new()
    {
        MaxNewTokens = model.MaxNewTokens,
        Temperature = model.Temperature > 0 ? model.Temperature : 1,
    };
}
