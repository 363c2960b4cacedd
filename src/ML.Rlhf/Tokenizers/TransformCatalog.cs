using Microsoft.ML;

namespace ML.Rlhf;

/// <summary>Data transformations of this pack, to put into a pipeline of ML.NET.</summary>
public sealed partial class TransformCatalog
{
    private readonly MLContext _context;

    internal TransformCatalog(MLContext context) => _context = context;

    /// <summary>Turns a text column into the ids of its tokens, with a tokenizer that exists already.</summary>
    /// <param name="outputColumnName">The column to add: a vector of Int32, as long as each row has tokens.</param>
    /// <param name="inputColumnName">The text column; null for the one named as the output, which then hides it.</param>
    /// <param name="tokenizer">The tokenizer. No end of text is appended, and special tokens in the text are ordinary text.</param>
    public TextTokenizingEstimator TokenizeText(string outputColumnName, string? inputColumnName, TextTokenizer tokenizer)
    {
        ArgumentNullException.ThrowIfNull(tokenizer);
        return new TextTokenizingEstimator(_context, outputColumnName, inputColumnName, tokenizer, default);
    }

    /// <summary>
    /// Turns a text column into the ids of its tokens, with a byte-level BPE tokenizer that <c>Fit</c> learns from that column.
    /// </summary>
    /// <param name="outputColumnName">The column to add: a vector of Int32, as long as each row has tokens.</param>
    /// <param name="inputColumnName">The text column; null for the one named as the output, which then hides it.</param>
    /// <param name="vocabularySize">
    /// The number of tokens to learn, 257 or more; 4096 by default, for the reasons at <see cref="TokenizerCatalog.TrainByteLevelBpe"/>.
    /// </param>
    /// <exception cref="ArgumentOutOfRangeException">The vocabulary size is too small.</exception>
    public TextTokenizingEstimator TokenizeText(
        string outputColumnName, string? inputColumnName = null, int vocabularySize = TokenizerCatalog.DefaultVocabularySize)
    {
        ByteLevelBpeTrainer.CheckVocabularySize(vocabularySize);
        return new TextTokenizingEstimator(_context, outputColumnName, inputColumnName, null, vocabularySize);
    }
}
