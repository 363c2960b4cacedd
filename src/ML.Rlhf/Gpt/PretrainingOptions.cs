using Microsoft.ML;

namespace ML.Rlhf;

/// <summary>What <see cref="GptOptions"/> and <see cref="LstmOptions"/> have in common: all but the shape of the model.</summary>
public abstract record PretrainingOptions : GptHyperparameters
{
    private protected PretrainingOptions() { }

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

    /// <summary>
    /// A file that the tokens of the corpus are kept in, in place of memory, and read from through a memory map: for a corpus that is larger
    /// than memory. It changes nothing but that. The file is written by each <c>Fit</c>, a resumed one too, and deleted at its end; what a
    /// killed run left behind is overwritten, and any other file is not.
    /// </summary>
    /// <value>
    /// Null, the default, keeps tokens in memory, 2 bytes each, or 4 with more than 65,536 ids. A path on a fast disk with as much room, used
    /// by one run at a time. Its folder is made where there is none.
    /// </value>
    public string? TokenFile { get; init; }

    /// <summary>How the trained model completes texts.</summary>
    public SamplingOptions Sampling { get; init; } = new();

    /// <summary>The shape of the model, which the options that derive from these call Architecture.</summary>
    internal abstract LanguageModelArchitecture Shape { get; }

    internal override void Check(OptionProblems problems)
    {
        base.Check(problems);
        problems.RequireName(nameof(TextColumnName), TextColumnName);
        problems.RequireName(nameof(CompletionColumnName), CompletionColumnName);
        problems.Require(TokenFile is null || !string.IsNullOrWhiteSpace(TokenFile), nameof(TokenFile), "empty",
            "the path of a file, or null to keep tokens in memory");
        ArgumentNullException.ThrowIfNull(Shape, "Architecture");
        problems.Include(Shape.Validate);
        problems.Include(Sampling.Validate);
    }
}
