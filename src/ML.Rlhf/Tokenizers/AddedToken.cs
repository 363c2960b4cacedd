using System.Buffers;
using System.Globalization;
using System.Text;
using System.Text.Json.Serialization;

namespace ML.Rlhf;

/// <summary>
/// A token that is found in text as it stands, before anything is normalized or cut: how the <c>added_tokens</c> of a tokenizer.json say
/// it. Special ones are recognized on request only, the others always.
/// </summary>
/// <param name="Text">What stands for it in text.</param>
/// <param name="Id">Its id.</param>
/// <param name="Special">It has no text of its own when tokens are decoded, and writers of prompts cannot spell it.</param>
/// <param name="SingleWord">It is not recognized next to a letter, a digit or an underscore.</param>
/// <param name="StripLeft">It takes white space before it along.</param>
/// <param name="StripRight">It takes white space after it along.</param>
/// <param name="Normalized">It is looked for in the normalized text, not in the text itself.</param>
internal sealed record AddedToken(
    string Text, int Id, bool Special, bool SingleWord = false, bool StripLeft = false, bool StripRight = false, bool Normalized = false)
{
    /// <summary>Whether <see cref="TokenizerContent.SpecialTokens"/> says all about it.</summary>
    [JsonIgnore]
    public bool IsPlain => Special && !SingleWord && !StripLeft && !StripRight && !Normalized;
}

/// <summary>
/// Finds added tokens in text: the leftmost first, and of those that begin at one place the longest, as the <c>tokenizers</c> library does.
/// </summary>
internal sealed class AddedTokenFinder
{
    private readonly Dictionary<string, AddedToken>.AlternateLookup<ReadOnlySpan<char>> _tokens;
    private readonly SearchValues<string> _beginnings;
    private readonly int[] _lengths; // that tokens have, the longest first

    public AddedTokenFinder(IEnumerable<AddedToken> tokens)
    {
        var byText = tokens.ToDictionary(token => token.Text);
        _tokens = byText.GetAlternateLookup<ReadOnlySpan<char>>();
        _beginnings = SearchValues.Create([.. byText.Keys], StringComparison.Ordinal);
        _lengths = [.. byText.Keys.Select(text => text.Length).Distinct().OrderDescending()];
    }

    /// <summary>The next token at or after a place.</summary>
    /// <param name="text">The text.</param>
    /// <param name="start">Where the token before ended.</param>
    /// <param name="special">Whether a special token that stands at a place counts.</param>
    /// <param name="found">Where it stands, with the white space that it takes along.</param>
    /// <returns>Null when there is none.</returns>
    public AddedToken? FindNext(ReadOnlySpan<char> text, int start, Predicate<Range> special, out Range found)
    {
        found = default;
        for (int from = start; ;)
        {
            int at = text[from..].IndexOfAny(_beginnings);
            if (at < 0)
                return null;
            at += from;
            AddedToken token = LongestAt(text, at);
            from = at + token.Text.Length; // a token that is passed over hides the shorter ones inside it
            if (token.Special && !special(at..from) || token.SingleWord && !StandsAlone(text, at, from))
                continue;

            int first = token.StripLeft ? Math.Max(start, text[..at].TrimEnd().Length) : at;
            int last = token.StripRight ? text.Length - text[from..].TrimStart().Length : from;
            found = first..last;
            return token;
        }
    }

    private AddedToken LongestAt(ReadOnlySpan<char> text, int at)
    {
        foreach (int length in _lengths)
        {
            if (length <= text.Length - at && _tokens.TryGetValue(text.Slice(at, length), out AddedToken? token))
                return token;
        }
        throw new InvalidOperationException("What was found is not there.");
    }

    private static bool StandsAlone(ReadOnlySpan<char> text, int start, int end) =>
        !(Rune.DecodeLastFromUtf16(text[..start], out Rune before, out _) == OperationStatus.Done && IsWordCharacter(before))
        && !(Rune.DecodeFromUtf16(text[end..], out Rune after, out _) == OperationStatus.Done && IsWordCharacter(after));

    /// <summary>What <c>\w</c> means in the regular expressions of Rust, and of Unicode's recommendation.</summary>
    private static bool IsWordCharacter(Rune rune) => Rune.GetUnicodeCategory(rune) is <= UnicodeCategory.LetterNumber
        or UnicodeCategory.ConnectorPunctuation || rune.Value is 0x200C or 0x200D;
}
