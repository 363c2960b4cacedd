using System.Text;
using Microsoft.ML.Tokenizers;

namespace ML.Rlhf;

/// <summary>
/// What <see cref="ByteTokenizer"/> and <see cref="CharacterTokenizer"/> share: tokens are found one Unicode character at a
/// time.
/// </summary>
internal abstract class RuneTokenizer : Utf8Tokenizer
{
    /// <summary>The tokens of one character, which stands at an index of a text.</summary>
    protected abstract void Encode(Rune rune, ReadOnlySpan<char> text, int index, List<int> ids);

    /// <summary>How a token is shown.</summary>
    protected abstract string TokenText(int id);

    protected override EncodeResults<int> EncodeToIds(string? text, ReadOnlySpan<char> textSpan, EncodeSettings settings)
    {
        ReadOnlySpan<char> source = text ?? textSpan;
        var ids = new List<int>(source.Length);
        int consumed = 0;
        foreach (Rune rune in source.EnumerateRunes())
        {
            int before = ids.Count;
            Encode(rune, source, consumed, ids);
            if (ids.Count > settings.MaxTokenCount)
            {
                ids.RemoveRange(before, ids.Count - before); // half a character is no token count worth reaching
                break;
            }
            consumed += rune.Utf16SequenceLength;
        }
        return new EncodeResults<int> { Tokens = ids, CharsConsumed = consumed };
    }

    protected override EncodeResults<EncodedToken> EncodeToTokens(string? text, ReadOnlySpan<char> textSpan, EncodeSettings settings)
    {
        ReadOnlySpan<char> source = text ?? textSpan;
        EncodeResults<int> encoded = EncodeToIds(text, textSpan, settings);
        var tokens = new List<EncodedToken>(encoded.Tokens.Count);
        var idsOfRune = new List<int>();
        int index = 0;
        foreach (Rune rune in source[..encoded.CharsConsumed].EnumerateRunes())
        {
            idsOfRune.Clear();
            Encode(rune, source, index, idsOfRune);
            var offset = new Range(index, index += rune.Utf16SequenceLength);
            foreach (int id in idsOfRune)
                tokens.Add(new EncodedToken(id, TokenText(id), offset));
        }
        return new EncodeResults<EncodedToken> { Tokens = tokens, CharsConsumed = encoded.CharsConsumed };
    }
}
