using ML.Rlhf.Bridge;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;
using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf;

/// <summary>Trains a GPT from nothing on the text of a corpus.</summary>
/// <remarks>
/// | | |
/// |-|-|
/// | Task | language modelling: predict each next token |
/// | Input | a text column, one document per row |
/// | Output | <see cref="TextGenerationTransformer"/>: a text column with the completion |
/// | Passes over the data | one, to tokenize it; tokens are kept in memory, 4 bytes each |
/// | Needs a label | no |
/// </remarks>
public sealed class GptTrainer : IEstimator<TextGenerationTransformer>
{
    private readonly TrainerHost _host;
    private readonly GptOptions _options;

    internal GptTrainer(IHostEnvironment environment, GptOptions options)
    {
        options.Validate();
        _host = new TrainerHost(environment, nameof(GptTrainer));
        _options = options;
    }

    /// <summary>The columns of the corpus, and the completion of its text, or of the prompt column where the options name one.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text or prompt column.</exception>
    public SchemaShape GetOutputSchema(SchemaShape inputSchema)
    {
        ArgumentNullException.ThrowIfNull(inputSchema);
        TextColumns.RequireText(_host.Host, inputSchema, "text", _options.TextColumnName);
        if (_options.PromptColumnName is { } prompt)
            TextColumns.RequireText(_host.Host, inputSchema, "prompt", prompt); // a chain applies the model to the corpus
        return Schemas.With(inputSchema, Schemas.Column(_options.CompletionColumnName, TextDataViewType.Instance));
    }

    /// <summary>Trains the tokenizer, unless one was given, and the model.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    /// <exception cref="InvalidOperationException">The corpus is empty.</exception>
    /// <exception cref="OperationCanceledException">The run was stopped.</exception>
    public TextGenerationTransformer Fit(IDataView input)
    {
        ArgumentNullException.ThrowIfNull(input);
        TextColumns.RequireText(_host.Host, input.Schema, "text", _options.TextColumnName);
        if (_options.ValidationData is { } held)
            TextColumns.RequireText(_host.Host, held.Schema, "validation text", _options.TextColumnName);

        return _host.Train("GPT", _options, run =>
        {
            var tokenizer = _options.Tokenizer ?? TokenizerCatalog.Train(
                _host.Host, input, _options.Architecture.VocabularySize, _options.TextColumnName, _options.CancellationToken);
            var architecture = _options.Architecture with { VocabularySize = tokenizer.VocabularySize };
            var corpus = Tokenization.Documents(input, _options.TextColumnName, tokenizer, _options.CancellationToken);
            var validation = _options.ValidationData is { } data
                ? Tokenization.Documents(data, _options.TextColumnName, tokenizer, _options.CancellationToken)
                : null;
            run.Log($"{corpus.Count} documents, {corpus.TokenCount} tokens of a vocabulary of {tokenizer.VocabularySize}; " +
                $"{architecture.ParameterCount} parameters.");

            using var generator = new Generator(run.Seed, CPU);
            return LanguageModel.Build(
                CausalLanguageModel.Create(architecture, generator).to(run.Device), tokenizer, architecture,
                module => LanguageModelTraining.Run(module, corpus, validation, _options, run),
                model => new TextGenerationTransformer(
                    _host.Environment, model, _options.PromptColumnName ?? _options.TextColumnName, _options.CompletionColumnName,
                    _options.Sampling));
        });
    }
}
