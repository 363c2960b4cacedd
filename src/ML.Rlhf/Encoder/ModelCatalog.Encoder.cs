using ML.Rlhf.Torch.Checkpoints;

namespace ML.Rlhf;

public sealed partial class ModelCatalog
{
    /// <summary>
    /// Reads an encoder, BERT or RoBERTa, from a folder in Hugging Face's layout: <c>config.json</c>, <c>model.safetensors</c> or its
    /// shards, and the tokenizer's files. Nothing in the folder is executed.
    /// </summary>
    /// <remarks>
    /// A checkpoint without the head that guesses hidden words (<c>BertModel</c>, as those for sentence embeddings are) makes features and
    /// nothing else. Poolers and heads for next sentence prediction are left out.
    /// </remarks>
    /// <param name="folder">The folder, such as a snapshot of a hub's repository.</param>
    /// <param name="textColumnName">The text column.</param>
    /// <param name="featuresColumnName">The vector column that the model adds.</param>
    /// <param name="pooling">How the states of a text's tokens become its features; the checkpoint's description says how.</param>
    /// <param name="normalizeFeatures">Whether features are divided by their L2 norm.</param>
    /// <param name="tokenizer">The tokenizer; null for the folder's own.</param>
    /// <exception cref="FormatException">A file is damaged, or the model is of a kind or has settings or tensors that are not built here;
    /// the message lists all of them.</exception>
    /// <exception cref="IOException">There is no such folder, or a file is missing.</exception>
    /// <exception cref="ArgumentException">The tokenizer is not that of an encoder, or has more tokens than the model.</exception>
    public EncoderTransformer EncoderFromPretrained(
        string folder, string textColumnName = EncoderTransformer.DefaultTextColumn,
        string featuresColumnName = EncoderTransformer.DefaultFeaturesColumn, EmbeddingPooling pooling = EmbeddingPooling.Mean,
        bool normalizeFeatures = false, TextTokenizer? tokenizer = null)
    {
        ArgumentException.ThrowIfNullOrEmpty(folder);
        ArgumentException.ThrowIfNullOrEmpty(textColumnName);
        ArgumentException.ThrowIfNullOrEmpty(featuresColumnName);
        if (!Enum.IsDefined(pooling))
            throw new ArgumentOutOfRangeException(nameof(pooling), pooling, "There are Mean and Cls.");
        return Import(folder, tokenizer, EncoderCheckpoint.Load, module => module.Architecture, model => new EncoderTransformer(
            _context, model, textColumnName, featuresColumnName, pooling, normalizeFeatures));
    }
}
