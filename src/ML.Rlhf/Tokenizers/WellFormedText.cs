using System.Text;

namespace ML.Rlhf;

/// <summary>UTF-16 that may hold half a surrogate pair, and UTF-8 that cannot.</summary>
internal static class WellFormedText
{
    /// <summary>
    /// The text with each lone surrogate replaced by U+FFFD: the text itself, uncopied, when there is none. It is the one place where
    /// tokens lose something of a .NET string: half a surrogate pair has no UTF-8.
    /// </summary>
    public static ReadOnlySpan<char> Of(ReadOnlySpan<char> text)
    {
        for (int i = text.IndexOfAnyInRange('\uD800', '\uDFFF'); i >= 0 && i < text.Length; i++)
        {
            if (!char.IsSurrogate(text[i]))
                continue;
            if (Rune.DecodeFromUtf16(text[i..], out _, out _) != System.Buffers.OperationStatus.Done)
                return Repaired(text);
            i++; // the other half of a whole pair
        }
        return text;
    }

    private static string Repaired(ReadOnlySpan<char> text)
    {
        var repaired = new StringBuilder(text.Length);
        foreach (Rune rune in text.EnumerateRunes()) // yields U+FFFD for a lone surrogate
            repaired.Append(rune);
        return repaired.ToString();
    }
}
