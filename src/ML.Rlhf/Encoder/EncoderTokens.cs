using ML.Rlhf.Torch.Training;

namespace ML.Rlhf;

/// <summary>The special tokens of an encoder's tokenizer.</summary>
/// <param name="Start">Stands before each text.</param>
/// <param name="End">Stands after it.</param>
/// <param name="Mask">Stands in the place of a hidden token.</param>
/// <param name="MaskText">How it is written.</param>
/// <param name="Pad">Fills rows where other programs need it; null where the tokenizer has none, for this package does not.</param>
internal sealed record EncoderTokens(int Start, int End, int Mask, string MaskText, int? Pad)
{
    /// <summary>What a tokenizer that is trained for an encoder begins with; the first ends a text.</summary>
    public static string[] OfNewTokenizers { get; } = ["[SEP]", "[CLS]", "[MASK]", "[PAD]"];

    // As BERT and as RoBERTa have them.
    private static readonly string[] s_starts = ["[CLS]", "<s>"], s_ends = ["[SEP]", "</s>"];
    private static readonly string[] s_masks = ["[MASK]", "<mask>"], s_pads = ["[PAD]", "<pad>"];

    /// <exception cref="ArgumentException">The tokenizer was not made for an encoder.</exception>
    public static EncoderTokens Of(TextTokenizer tokenizer)
    {
        string? Find(string[] names) => names.FirstOrDefault(tokenizer.SpecialTokens.ContainsKey);
        if (Find(s_starts) is not { } start || Find(s_ends) is not { } end || Find(s_masks) is not { } mask)
            throw new ArgumentException(
                "An encoder needs the special tokens [CLS], [SEP] and [MASK], or <s>, </s> and <mask>, but the " +
                $"{tokenizer} has {string.Join(", ", tokenizer.SpecialTokens.Keys)}. Take the tokenizer of an encoder, or none: " +
                "the trainer makes one.");
        return new EncoderTokens(
            tokenizer.SpecialTokens[start], tokenizer.SpecialTokens[end], tokenizer.SpecialTokens[mask], mask,
            Find(s_pads) is { } pad ? tokenizer.SpecialTokens[pad] : null);
    }

    /// <summary>Tokens that stand for no text, be they special or gaps in the vocabulary, are not hidden and not drawn.</summary>
    public static MaskingVocabulary Vocabulary(TextTokenizer tokenizer)
    {
        var gaps = tokenizer.Content.Vocabulary.Index().Where(token => token.Item is null).Select(token => token.Index);
        return new MaskingVocabulary(tokenizer.VocabularySize, Of(tokenizer).Mask, tokenizer.SpecialTokens.Values.Concat(gaps));
    }

    /// <summary>A text between the tokens that stand before and after it.</summary>
    public int[] Enclose(ReadOnlySpan<int> text) => [Start, .. text, End];
}
