using System.Globalization;
using System.Text;
using Microsoft.ML.Tokenizers;

namespace ML.Rlhf;

/// <summary>
/// What a WordPiece tokenizer does to a text before it looks words up, in BERT's way. The defaults are those of bert-base-uncased.
/// </summary>
internal sealed record WordPieceRules
{
    /// <summary>Control characters are dropped, and white space of every kind becomes a space.</summary>
    public bool CleanText { get; init; } = true;

    /// <summary>Each Chinese character is a word of its own.</summary>
    public bool SeparateChinese { get; init; } = true;

    public bool StripAccents { get; init; } = true;

    public bool Lowercase { get; init; } = true;

    /// <summary>What is read for a word that cannot be put together from tokens.</summary>
    public string UnknownToken { get; init; } = "[UNK]";

    /// <summary>What tokens begin with that continue a word.</summary>
    public string ContinuingPrefix { get; init; } = "##";

    /// <summary>A longer word is unknown.</summary>
    public int MaximumWordLength { get; init; } = 100;

    /// <summary>Whether decoding leaves out the spaces before punctuation and inside contractions.</summary>
    public bool TidiesDecoded { get; init; } = true;

    /// <summary>
    /// Written here because the library's own takes tabs and new lines for control characters, so that two words become one, and needs
    /// ICU for accents.
    /// </summary>
    public TextNormalizer CreateNormalizer() => new(text =>
    {
        text = CleanText ? Clean(text) : text;
        text = SeparateChinese ? WithSpacesAroundChinese(text) : text;
        text = StripAccents ? WithoutAccents(text) : text;
        return Lowercase ? InLowercase(text) : text;
    });

    /// <param name="content">Checked.</param>
    /// <remarks>
    /// The library counts the length of a word in UTF-16 units, the original in characters: it makes a difference only to words of more
    /// than fifty characters beyond U+FFFF.
    /// </remarks>
    public Tokenizer CreateTokenizer(TokenizerContent content)
    {
        var lines = new MemoryStream(Encoding.UTF8.GetBytes(string.Join('\n', content.Vocabulary))); // an empty line is no token
        return WordPieceTokenizer.Create(lines, new WordPieceOptions
        {
            Normalizer = CreateNormalizer(),
            PreTokenizer = new BertPreTokenizer(),
            UnknownToken = UnknownToken,
            ContinuingSubwordPrefix = ContinuingPrefix,
            MaxInputCharsPerWord = MaximumWordLength,
        });
    }

    /// <summary>What a token stands for.</summary>
    public string TextOf(string token, bool first)
    {
        string text = first ? token
            : token.StartsWith(ContinuingPrefix, StringComparison.Ordinal) ? token[ContinuingPrefix.Length..] : " " + token;
        return TidiesDecoded ? Tidy(text) : text;
    }

    private static string Tidy(string text) => text
        .Replace(" .", ".").Replace(" ?", "?").Replace(" !", "!").Replace(" ,", ",").Replace(" ' ", "'").Replace(" n't", "n't")
        .Replace(" 'm", "'m").Replace(" do not", " don't").Replace(" 's", "'s").Replace(" 've", "'ve").Replace(" 're", "'re");

    private static string Clean(string text)
    {
        var clean = new StringBuilder(text.Length);
        foreach (Rune rune in text.EnumerateRunes())
        {
            if (Rune.IsWhiteSpace(rune))
                clean.Append(' ');
            else if (rune.Value is not (0 or 0xFFFD) && Rune.GetUnicodeCategory(rune) is not (UnicodeCategory.Control
                or UnicodeCategory.Format or UnicodeCategory.PrivateUse or UnicodeCategory.Surrogate))
                clean.Append(rune);
        }
        return clean.ToString();
    }

    private static string WithSpacesAroundChinese(string text)
    {
        if (!text.AsSpan().ContainsAnyInRange('\u3400', char.MaxValue))
            return text;
        var spaced = new StringBuilder(text.Length);
        foreach (Rune rune in text.EnumerateRunes())
        {
            if (IsChinese(rune.Value))
                spaced.Append(' ').Append(rune).Append(' ');
            else
                spaced.Append(rune);
        }
        return spaced.ToString();
    }

    /// <summary>The blocks that BERT counts. (The reference begins the sixth at U+2B920, where Unicode has U+2B820.)</summary>
    private static bool IsChinese(int character) => character is >= 0x4E00 and <= 0x9FFF or >= 0x3400 and <= 0x4DBF
        or >= 0x20000 and <= 0x2A6DF or >= 0x2A700 and <= 0x2B73F or >= 0x2B740 and <= 0x2B81F or >= 0x2B920 and <= 0x2CEAF
        or >= 0xF900 and <= 0xFAFF or >= 0x2F800 and <= 0x2FA1F;

    private static string WithoutAccents(string text)
    {
        if (Ascii.IsValid(text))
            return text;
        var bare = new StringBuilder(text.Length);
        foreach (Rune rune in CanonicalForms.Decompose(text).EnumerateRunes())
        {
            if (Rune.GetUnicodeCategory(rune) != UnicodeCategory.NonSpacingMark)
                bare.Append(rune);
        }
        return bare.ToString();
    }

    /// <summary>Letter by letter, as Unicode's table has it; İ is the one that becomes two.</summary>
    private static string InLowercase(string text) => text.Replace("\u0130", "i\u0307").ToLowerInvariant();
}

/// <summary>Cuts a text at white space, and makes each punctuation mark a word.</summary>
internal sealed class BertPreTokenizer : PreTokenizer
{
    public override IEnumerable<(int Offset, int Length)> PreTokenize(string text) => PreTokenize(text.AsSpan());

    public override IEnumerable<(int Offset, int Length)> PreTokenize(ReadOnlySpan<char> text)
    {
        var words = new List<(int, int)>();
        int start = 0, index = 0;
        foreach (Rune rune in text.EnumerateRunes())
        {
            bool mark = IsPunctuation(rune);
            if (mark || Rune.IsWhiteSpace(rune))
            {
                AddWord(start, index);
                start = index + rune.Utf16SequenceLength;
                if (mark)
                    AddWord(index, start);
            }
            index += rune.Utf16SequenceLength;
        }
        AddWord(start, index);
        return words;

        void AddWord(int from, int to)
        {
            if (from < to)
                words.Add((from, to - from));
        }
    }

    /// <summary>Unicode's punctuation, and all of ASCII that is neither a letter, a digit, white space nor a control character.</summary>
    private static bool IsPunctuation(Rune rune) => rune.IsAscii
        ? rune.Value > ' ' && rune.Value < 0x7F && !Rune.IsLetterOrDigit(rune)
        : Rune.IsPunctuation(rune);
}
