using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;
using ML.Rlhf.Bridge;
using ML.Rlhf.Torch.Training;
using TorchSharp;
using static TorchSharp.torch;
using EncoderDecoderModule = ML.Rlhf.Torch.Modules.EncoderDecoder;

namespace ML.Rlhf;

/// <summary>
/// Trains the original transformer, an encoder–decoder, from nothing to make one text of another: completions of prompts.
/// </summary>
/// <remarks>
/// | | |
/// |-|-|
/// | Task | sequence to sequence (Vaswani et al. 2017): translation, summaries, corrections, answers |
/// | Input | two text columns, prompt and completion |
/// | Output | <see cref="TextToTextTransformer"/>: a text column with the completion |
/// | Passes over the data | one, and one before it to train a tokenizer; tokens are kept in memory, 2 bytes each, or 4 with more than 65,536 ids |
/// | Needs a model | no: it starts from random weights |
/// </remarks>
public sealed class EncoderDecoderTrainer : IEstimator<TextToTextTransformer>
{
    private readonly TrainerHost _host;
    private readonly EncoderDecoderOptions _options;

    internal EncoderDecoderTrainer(IHostEnvironment environment, EncoderDecoderOptions options)
    {
        options.Validate();
        _host = new TrainerHost(environment, nameof(EncoderDecoderTrainer));
        _options = options;
    }

    /// <summary>The columns of the data; the completions are then the model's.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    public SchemaShape GetOutputSchema(SchemaShape inputSchema)
    {
        ArgumentNullException.ThrowIfNull(inputSchema);
        RequireColumns(inputSchema);
        return Schemas.With(inputSchema, Schemas.Column(_options.CompletionColumnName, TextDataViewType.Instance));
    }

    /// <summary>Trains the tokenizer, unless one was given, and the model.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    /// <exception cref="InvalidOperationException">There are no rows that fit the model.</exception>
    /// <exception cref="OperationCanceledException">The run was stopped.</exception>
    public TextToTextTransformer Fit(IDataView input)
    {
        ArgumentNullException.ThrowIfNull(input);
        RequireColumns(Schemas.Shape(input.Schema));
        if (_options.ValidationData is { } held)
            RequireColumns(Schemas.Shape(held.Schema), "validation ");

        return _host.Train("Encoder-decoder", _options, run =>
        {
            var tokenizer = _options.Tokenizer ?? TokenizerCatalog.Train(
                _host.Host, Texts(input), _options.Architecture.VocabularySize, run.ThrowIfCanceled);
            var architecture = _options.Architecture with { VocabularySize = tokenizer.VocabularySize };
            SequencePairs Read(IDataView data) => Tokenization.Pairs(
                data, _options.PromptColumnName, _options.CompletionColumnName, tokenizer, architecture.ContextLength, run.Warn,
                run.ThrowIfCanceled);
            var pairs = Read(input);
            var validation = _options.ValidationData is { } data ? Read(data) : null;
            run.Log($"{pairs.Count} demonstrations, {pairs.Sources.TokenCount} tokens of prompts and {pairs.Targets.TokenCount} of " +
                $"completions, of a vocabulary of {tokenizer.VocabularySize}; {architecture.ParameterCount} parameters.");

            using var generator = new Generator(run.Seed, CPU);
            return LanguageModel.Build(
                new EncoderDecoderModule(architecture, generator).to(run.Device), tokenizer, architecture,
                module => EncoderDecoderTraining.Run(module, pairs, validation, _options, run),
                model => new TextToTextTransformer(
                    _host.Environment, model, _options.PromptColumnName, _options.CompletionColumnName, _options.Sampling));
        });
    }

    private IEnumerable<string> Texts(IDataView data) => TextColumns
        .Read(data, [_options.PromptColumnName, _options.CompletionColumnName]).SelectMany(row => row);

    private void RequireColumns(SchemaShape schema, string of = "")
    {
        TextColumns.RequireText(_host.Host, schema, of + "prompt", _options.PromptColumnName);
        TextColumns.RequireText(_host.Host, schema, of + "completion", _options.CompletionColumnName);
    }
}
