using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;
using ML.Rlhf.Bridge;
using ML.Rlhf.Torch.Training;
using TorchSharp;
using static TorchSharp.torch;
using EncoderModule = ML.Rlhf.Torch.Modules.Encoder;

namespace ML.Rlhf;

/// <summary>Trains an encoder from nothing on the text of a corpus, by guessing tokens that were hidden (BERT, RoBERTa).</summary>
/// <remarks>
/// | | |
/// |-|-|
/// | Task | masked language modelling: guess hidden tokens from both sides. There is no next sentence prediction |
/// | Input | a text column, one document per row |
/// | Output | <see cref="EncoderTransformer"/>: a vector of Single with features of the text |
/// | Passes over the data | one, to tokenize it; tokens are kept in memory, 2 bytes each, or 4 with more than 65,536 ids |
/// | Needs a label | no |
/// </remarks>
public sealed class MaskedLanguageModelTrainer : IEstimator<EncoderTransformer>
{
    private readonly TrainerHost _host;
    private readonly MaskedLanguageModelOptions _options;

    internal MaskedLanguageModelTrainer(IHostEnvironment environment, MaskedLanguageModelOptions options)
    {
        options.Validate();
        _host = new TrainerHost(environment, nameof(MaskedLanguageModelTrainer));
        _options = options;
    }

    /// <summary>The columns of the corpus, and the features of its text.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    public SchemaShape GetOutputSchema(SchemaShape inputSchema)
    {
        ArgumentNullException.ThrowIfNull(inputSchema);
        TextColumns.RequireText(_host.Host, inputSchema, "text", _options.TextColumnName);
        return Schemas.With(
            inputSchema, Schemas.Column(_options.FeaturesColumnName, EncoderTransformer.FeaturesType(_options.Architecture)));
    }

    /// <summary>Trains the tokenizer, unless one was given, and the model.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    /// <exception cref="InvalidOperationException">The corpus is empty.</exception>
    /// <exception cref="OperationCanceledException">The run was stopped.</exception>
    public EncoderTransformer Fit(IDataView input)
    {
        ArgumentNullException.ThrowIfNull(input);
        TextColumns.RequireText(_host.Host, input.Schema, "text", _options.TextColumnName);
        if (_options.ValidationData is { } held)
            TextColumns.RequireText(_host.Host, held.Schema, "validation text", _options.TextColumnName);

        return _host.Train("MLM", _options, run =>
        {
            var tokenizer = _options.Tokenizer ?? TokenizerCatalog.Train(
                _host.Host, input, _options.Architecture.VocabularySize, _options.TextColumnName, run.ThrowIfCanceled,
                EncoderTokens.OfNewTokenizers);
            var vocabulary = EncoderTokens.Vocabulary(tokenizer);
            var architecture = _options.Architecture with { VocabularySize = tokenizer.VocabularySize };
            TokenSequences Read(IDataView data) => Tokenization.EnclosedDocuments(
                data, _options.TextColumnName, tokenizer, architecture.ContextLength, run.Warn, run.ThrowIfCanceled);
            var corpus = Read(input);
            var validation = _options.ValidationData is { } data ? Read(data) : null;
            run.Log($"{corpus.Count} documents, pieces of long ones counted, {corpus.TokenCount} tokens of a vocabulary of " +
                $"{tokenizer.VocabularySize}; {architecture.ParameterCount} parameters.");

            using var generator = new Generator(run.Seed, CPU);
            return LanguageModel.Build(
                new EncoderModule(architecture, generator).to(run.Device), tokenizer, architecture,
                module => MaskedLanguageModelTraining.Run(module, corpus, validation, vocabulary, _options, run),
                model => new EncoderTransformer(
                    _host.Environment, model, _options.TextColumnName, _options.FeaturesColumnName, _options.Pooling,
                    _options.NormalizeFeatures));
        });
    }
}
