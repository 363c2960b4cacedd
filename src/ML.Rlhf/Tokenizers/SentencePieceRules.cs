namespace ML.Rlhf;

/// <summary>Where a text gets a "▁" of its own, the sign that SentencePiece writes for a space.</summary>
internal enum PrefixScheme
{
    /// <summary>Nowhere (Gemma).</summary>
    Never,

    /// <summary>At its beginning, unless it begins with a space (newer Llama 2 and Mistral).</summary>
    First,

    /// <summary>At its beginning and behind every added token, unless a space stands there.</summary>
    Always,

    /// <summary>At its beginning and behind every added token, also where a space stands (older Llama 2 and Mistral).</summary>
    Unconditional,
}

/// <summary>What decoding does with the space that a text would begin with.</summary>
internal enum LeadingSpace
{
    /// <summary>It stays.</summary>
    Keep,

    /// <summary>One space is left out.</summary>
    DropOne,

    /// <summary>All spaces of the first token are left out.</summary>
    DropFromFirstToken,
}

/// <summary>What a SentencePiece-style BPE does beside merging.</summary>
internal sealed record SentencePieceRules
{
    /// <summary>The form that the text is brought to first.</summary>
    public UnicodeForm Normalization { get; init; }

    public PrefixScheme Prefix { get; init; }

    public LeadingSpace Leading { get; init; }

    /// <summary>Whether no merge crosses a space.</summary>
    public bool SplitWords { get; init; }

    /// <summary>A text that is a token is that token, whatever the merges would make of it (<c>ignore_merges</c>).</summary>
    public bool WholePieces { get; init; }

    /// <summary>Whether a character that is no token is spelled in the tokens <c>&lt;0x00&gt;</c> to <c>&lt;0xFF&gt;</c>.</summary>
    public bool ByteFallback { get; init; }

    /// <summary>Whether such tokens are bytes of UTF-8 when they are decoded.</summary>
    public bool DecodesBytes { get; init; }

    /// <summary>What is read for any other character that is no token; null leaves it out.</summary>
    public string? UnknownToken { get; init; }

    /// <summary>Whether several unknown characters in a row are one unknown token.</summary>
    public bool FuseUnknown { get; init; }

    /// <summary>What happens to the text, before anything else looks at it; null for nothing.</summary>
    public TextNormalizer? CreateNormalizer()
    {
        Func<string, string> form = CanonicalForms.Transform(Normalization);
        if (Prefix is PrefixScheme.Unconditional or PrefixScheme.Never) // where spaces are replaced by a normalizer
            return new TextNormalizer(text => form(text).Replace(' ', SentencePieceBpe.Space),
                Prefix == PrefixScheme.Never ? "" : SentencePieceBpe.Space.ToString(), prefixAlways: true);
        return Normalization == UnicodeForm.None ? null : new TextNormalizer(form);
    }
}
