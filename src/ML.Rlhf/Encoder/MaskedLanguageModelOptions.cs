using Microsoft.ML;

namespace ML.Rlhf;

/// <summary>Options of <see cref="MaskedLanguageModelTrainer"/>.</summary>
public sealed record MaskedLanguageModelOptions : MaskedLanguageModelHyperparameters
{
    /// <summary>The shape of the model.</summary>
    /// <value><see cref="EncoderArchitecture.Micro"/> by default: minutes on two cores. Its vocabulary size is that of the tokenizer, once
    /// there is one.</value>
    public EncoderArchitecture Architecture { get; init; } = EncoderArchitecture.Micro;

    /// <summary>The tokenizer: one that has the special tokens of an encoder.</summary>
    /// <value>Null, the default, trains a byte-level BPE of the architecture's vocabulary size on the corpus.</value>
    public TextTokenizer? Tokenizer { get; init; }

    /// <summary>The text column, one document per row: the corpus, and what the trained model makes features of.</summary>
    public string TextColumnName { get; init; } = EncoderTransformer.DefaultTextColumn;

    /// <summary>The vector column that the trained model adds.</summary>
    public string FeaturesColumnName { get; init; } = EncoderTransformer.DefaultFeaturesColumn;

    /// <summary>How the states of a text's tokens become its features.</summary>
    /// <value><see cref="EmbeddingPooling.Mean"/> by default: nothing trains the state of [CLS] for it.</value>
    public EmbeddingPooling Pooling { get; init; } = EmbeddingPooling.Mean;

    /// <summary>Whether features are divided by their L2 norm, so that a dot product of two texts is their cosine.</summary>
    /// <value>False by default.</value>
    public bool NormalizeFeatures { get; init; }

    /// <summary>Held-out documents, with the same text column.</summary>
    /// <value>Null, the default, measures nothing.</value>
    public IDataView? ValidationData { get; init; }

    internal override void Check(OptionProblems problems)
    {
        base.Check(problems);
        ArgumentNullException.ThrowIfNull(Architecture);
        problems.Include(Architecture.Validate);
        problems.Require(Architecture.MaskedLanguageModelHead, "Architecture.MaskedLanguageModelHead",
            Architecture.MaskedLanguageModelHead, "true: it is what is trained");
        if (Tokenizer is not null)
            problems.Include(() => EncoderTokens.Of(Tokenizer));
        problems.RequireName(nameof(TextColumnName), TextColumnName);
        problems.RequireName(nameof(FeaturesColumnName), FeaturesColumnName);
        problems.Require(Enum.IsDefined(Pooling), nameof(Pooling), Pooling, "Mean or Cls");
    }
}
