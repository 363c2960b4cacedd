using System.Globalization;
using System.Text;
using Microsoft.ML.Tokenizers;

namespace ML.Rlhf;

/// <summary>
/// Cuts text into the pieces that byte-pair encoding works inside: words with their leading space, numbers, runs of other signs, white
/// space, and the English contractions. No merge crosses a piece.
/// </summary>
/// <remarks>
/// It is GPT-2's regular expression, <c>'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+</c>, written by hand
/// because .NET's <c>\p{L}</c> looks at UTF-16 units: it takes a letter beyond U+FFFF for a sign, and cuts differently from the
/// tokenizers that models were trained with.
/// </remarks>
internal sealed class Gpt2PreTokenizer : PreTokenizer
{
    private static readonly string[] s_contractions = ["s", "t", "d", "m", "ll", "ve", "re"];

    private enum Class { Letter, Number, Space, Other }

    public override IEnumerable<(int Offset, int Length)> PreTokenize(string text)
    {
        for (int start = 0; start < text.Length;)
        {
            int length = NextLength(text.AsSpan(start));
            yield return (start, length);
            start += length;
        }
    }

    public override IEnumerable<(int Offset, int Length)> PreTokenize(ReadOnlySpan<char> text)
    {
        // A span cannot live in an iterator, so its pieces are collected first.
        var pieces = new List<(int, int)>();
        for (int start = 0; start < text.Length;)
        {
            int length = NextLength(text[start..]);
            pieces.Add((start, length));
            start += length;
        }
        return pieces;
    }

    /// <summary>The length of the piece that a text, not empty, begins with.</summary>
    public static int NextLength(ReadOnlySpan<char> text)
    {
        if (text[0] == '\'')
        {
            foreach (string ending in s_contractions)
            {
                if (text[1..].StartsWith(ending))
                    return 1 + ending.Length;
            }
        }

        // One space belongs to the run of letters, numbers or signs that it leads.
        int lead = text[0] == ' ' && text.Length > 1 ? 1 : 0;
        Class first = ClassOf(text[lead..], out _);
        if (first != Class.Space)
            return lead + RunLength(text[lead..], first);

        // White space keeps together, but its last character stays behind to lead what follows.
        int run = RunLength(text, Class.Space);
        return run > 1 && run < text.Length ? run - 1 : run;
    }

    private static int RunLength(ReadOnlySpan<char> text, Class wanted)
    {
        int length = 0;
        while (length < text.Length && ClassOf(text[length..], out int width) == wanted)
            length += width;
        return length;
    }

    /// <summary>The class of the first character, and how many UTF-16 units it takes.</summary>
    private static Class ClassOf(ReadOnlySpan<char> text, out int width)
    {
        char c = text[0];
        width = 1;
        if (char.IsWhiteSpace(c))
            return Class.Space;
        if (char.IsAscii(c))
            return char.IsAsciiLetter(c) ? Class.Letter : char.IsAsciiDigit(c) ? Class.Number : Class.Other;

        Rune.DecodeFromUtf16(text, out Rune rune, out width);
        return Rune.GetUnicodeCategory(rune) switch
        {
            UnicodeCategory.UppercaseLetter or UnicodeCategory.LowercaseLetter or UnicodeCategory.TitlecaseLetter
                or UnicodeCategory.ModifierLetter or UnicodeCategory.OtherLetter => Class.Letter,
            UnicodeCategory.DecimalDigitNumber or UnicodeCategory.LetterNumber or UnicodeCategory.OtherNumber => Class.Number,
            _ => Class.Other,
        };
    }
}
