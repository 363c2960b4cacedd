namespace ML.Rlhf;

/// <summary>How a <see cref="TextTokenizer"/> cuts text into tokens.</summary>
public enum TokenizerKind
{
    /// <summary>Byte-level byte-pair encoding, as GPT-2 has it: frequent byte sequences are one token, and no text is unknown.</summary>
    ByteLevelBpe,

    /// <summary>Every byte of the UTF-8 text is a token: nothing to train, no text is unknown, long sequences.</summary>
    Bytes,

    /// <summary>Every character (Unicode code point) of the training corpus is a token; others are unknown.</summary>
    Characters,

    /// <summary>
    /// Byte-pair encoding of characters, with spaces as "▁" and rare characters in bytes: the tokenizer.json of Llama 2, Mistral, Gemma.
    /// </summary>
    SentencePieceBpe,

    /// <summary>Words, and pieces of words that are put together from the longest at the beginning: BERT.</summary>
    WordPiece,
}
