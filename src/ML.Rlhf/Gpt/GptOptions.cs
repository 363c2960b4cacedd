using Microsoft.ML;

namespace ML.Rlhf;

/// <summary>Options of <see cref="GptTrainer"/>.</summary>
public sealed record GptOptions : GptHyperparameters
{
    /// <summary>The shape of the model.</summary>
    /// <value><see cref="GptArchitecture.Micro"/> by default: minutes on two cores. Its vocabulary size is that of the tokenizer, once
    /// there is one.</value>
    public LanguageModelArchitecture Architecture { get; init; } = GptArchitecture.Micro;

    /// <summary>The tokenizer.</summary>
    /// <value>Null, the default, trains a byte-level BPE of the architecture's vocabulary size on the corpus.</value>
    public TextTokenizer? Tokenizer { get; init; }

    /// <summary>The text column of the corpus, one document per row.</summary>
    public string TextColumnName { get; init; } = "Text";

    /// <summary>The text column that the trained model completes.</summary>
    /// <value>Null, the default, is <see cref="TextColumnName"/>: a pretrained model goes on with a document.</value>
    public string? PromptColumnName { get; init; }

    /// <summary>The text column that the trained model adds.</summary>
    public string CompletionColumnName { get; init; } = TextGenerationTransformer.DefaultCompletionColumn;

    /// <summary>Held-out documents, with the same text column.</summary>
    /// <value>Null, the default, measures nothing.</value>
    public IDataView? ValidationData { get; init; }

    /// <summary>How the trained model completes texts.</summary>
    public SamplingOptions Sampling { get; init; } = new();

    internal override void Check(OptionProblems problems)
    {
        base.Check(problems);
        problems.RequireName(nameof(TextColumnName), TextColumnName);
        problems.RequireName(nameof(CompletionColumnName), CompletionColumnName);
        ArgumentNullException.ThrowIfNull(Architecture);
        problems.Include(Architecture.Validate);
        problems.Include(Sampling.Validate);
    }
}
