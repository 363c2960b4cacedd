using ML.Rlhf.Bridge;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;
using Microsoft.ML;
using Microsoft.ML.Data;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf;

/// <summary>What the trainers of language models from nothing do: the same data, options, loop and metrics for each architecture.</summary>
internal static class Pretraining
{
    /// <summary>The columns of the corpus, and the completion.</summary>
    public static SchemaShape OutputSchema(TrainerHost host, PretrainingOptions options, SchemaShape inputSchema)
    {
        ArgumentNullException.ThrowIfNull(inputSchema);
        TextColumns.RequireText(host.Host, inputSchema, "text", options.TextColumnName);
        if (options.PromptColumnName is { } prompt)
            TextColumns.RequireText(host.Host, inputSchema, "prompt", prompt); // a chain applies the model to the corpus
        return Schemas.With(inputSchema, Schemas.Column(options.CompletionColumnName, TextDataViewType.Instance));
    }

    /// <summary>Trains the tokenizer, unless one was given, and the model.</summary>
    public static TextGenerationTransformer Fit(TrainerHost host, string stage, PretrainingOptions options, IDataView input)
    {
        ArgumentNullException.ThrowIfNull(input);
        TextColumns.RequireText(host.Host, input.Schema, "text", options.TextColumnName);
        if (options.ValidationData is { } held)
            TextColumns.RequireText(host.Host, held.Schema, "validation text", options.TextColumnName);

        return host.Train(stage, options, run =>
        {
            var tokenizer = options.Tokenizer ?? TokenizerCatalog.Train(
                host.Host, input, options.Shape.VocabularySize, options.TextColumnName, run.ThrowIfCanceled);
            var architecture = options.Shape with { VocabularySize = tokenizer.VocabularySize };
            using var file = options.TokenFile is { } path ? new TokenFile(path) : null;
            var corpus = Tokenization.Documents(input, options.TextColumnName, tokenizer, run.ThrowIfCanceled, file);
            var validation = options.ValidationData is { } data
                ? Tokenization.Documents(data, options.TextColumnName, tokenizer, run.ThrowIfCanceled)
                : null;
            run.Log($"{corpus.Count} documents, {corpus.TokenCount} tokens of a vocabulary of {tokenizer.VocabularySize}; " +
                $"{architecture.ParameterCount} parameters.");

            using var generator = new Generator(run.Seed, CPU);
            return LanguageModel.Build(
                CausalLanguageModel.Create(architecture, generator).to(run.Device), tokenizer, architecture,
                module => LanguageModelTraining.Run(module, corpus, validation, options, run),
                model => new TextGenerationTransformer(
                    host.Environment, model, options.PromptColumnName ?? options.TextColumnName, options.CompletionColumnName,
                    options.Sampling));
        });
    }
}
