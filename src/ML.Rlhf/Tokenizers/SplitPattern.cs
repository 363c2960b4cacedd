using System.Diagnostics;
using System.Globalization;
using System.Text;
using System.Text.RegularExpressions;

namespace ML.Rlhf;

/// <summary>
/// A regular expression that cuts text into pieces, read as the regular expressions of a tokenizer.json are: over characters (code
/// points), where .NET's go over UTF-16 units and take a letter beyond U+FFFF for two signs.
/// </summary>
/// <remarks>
/// Text with characters beyond U+FFFF is matched in a shadow of itself, in which each of them is replaced by one unit of the same Unicode
/// category. Expressions are refused where the two dialects differ in what they match: see <see cref="Translate"/>.
/// </remarks>
internal sealed class SplitPattern
{
    private const int MaximumLength = 10_000;

    /// <summary>No piece of text needs so long; an expression that does was made to.</summary>
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(10);

    /// <summary>The last character of each category below U+10000: rare ones, which no expression names.</summary>
    private static readonly char[] s_standIns = MakeStandIns();

    private static readonly string[] s_groups = ["(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"];

    /// <summary>In ten seconds, the slowest machine matches far more.</summary>
    private const int CharactersInPatience = 1 << 20;

    private readonly Regex _regex;
    private readonly TimeSpan _patience;
    private readonly bool _keepRest;

    /// <param name="pattern">The expression.</param>
    /// <param name="keepRest">Whether what lies between two matches is a piece, too; it is left out otherwise.</param>
    /// <param name="patience">How long a search may take; null for ten seconds.</param>
    /// <exception cref="FormatException">The expression is damaged, or uses what means something else in .NET.</exception>
    public SplitPattern(string pattern, bool keepRest, TimeSpan? patience = null)
    {
        if (pattern.Length > MaximumLength)
            throw new FormatException(
                $"A regular expression of {pattern.Length} characters is not supported; the longest has {MaximumLength}.");
        string translated = Translate(pattern);
        try
        {
            _patience = patience ?? s_patience;
            _regex = new Regex(translated, RegexOptions.CultureInvariant, _patience);
        }
        catch (ArgumentException exception)
        {
            throw new FormatException($"The regular expression {pattern} cannot be read: {exception.Message}");
        }
        _keepRest = keepRest;
    }

    /// <summary>Where the pieces of a text lie, in UTF-16 units. None is empty.</summary>
    /// <exception cref="FormatException">The expression is one that takes forever.</exception>
    public List<(int Offset, int Length)> Split(ReadOnlySpan<char> text)
    {
        // starts[i] is where the character stands that is unit i of the shadow; null where both are the same.
        int[]? starts = null;
        ReadOnlySpan<char> shadow = text.IndexOfAnyInRange('\uD800', '\uDFFF') < 0 ? text : Shadow(text, out starts);
        int At(int index) => starts is null ? index : starts[index];

        var pieces = new List<(int, int)>();
        int end = 0;
        long started = Stopwatch.GetTimestamp();
        try
        {
            foreach (ValueMatch match in _regex.EnumerateMatches(shadow))
            {
                // The regular expression's own patience is with one match, and a text can have many slow ones.
                if (Stopwatch.GetElapsedTime(started) > _patience * (1 + text.Length / CharactersInPatience))
                    throw new RegexMatchTimeoutException();
                if (match.Length == 0)
                    continue;
                Add(end, match.Index, _keepRest);
                end = match.Index + match.Length;
                Add(match.Index, end, true);
            }
        }
        catch (RegexMatchTimeoutException)
        {
            throw new FormatException($"The regular expression {_regex} of the tokenizer takes forever on this text.");
        }
        Add(end, shadow.Length, _keepRest);
        return pieces;

        void Add(int from, int to, bool keep)
        {
            if (keep && from < to)
                pieces.Add((At(from), At(to) - At(from)));
        }
    }

    private static string Shadow(ReadOnlySpan<char> text, out int[] starts)
    {
        var shadow = new StringBuilder(text.Length);
        starts = new int[text.Length + 1];
        int index = 0;
        foreach (Rune rune in text.EnumerateRunes())
        {
            starts[shadow.Length] = index;
            shadow.Append(rune.IsBmp ? (char)rune.Value : s_standIns[(int)Rune.GetUnicodeCategory(rune)]);
            index += rune.Utf16SequenceLength;
        }
        starts[shadow.Length] = index;
        return shadow.ToString();
    }

    private static char[] MakeStandIns()
    {
        var standIns = new char[(int)UnicodeCategory.OtherNotAssigned + 1];
        for (int unit = 0; unit <= char.MaxValue; unit++)
            standIns[(int)char.GetUnicodeCategory((char)unit)] = (char)unit;
        return standIns;
    }

    /// <summary>
    /// The expression as .NET writes it. Throws where .NET would read it otherwise than Oniguruma does: anchors (^ there is the start of
    /// any line), \w and what is built on it, sets inside of sets, possessive quantifiers, and options but for <c>(?i:…)</c>. In
    /// these, ſ is a form of s, which .NET does not know.
    /// </summary>
    private static string Translate(string pattern)
    {
        var translated = new StringBuilder(pattern.Length);
        var ignoresCase = new Stack<bool>([false]); // of the groups around
        bool inSet = false, quantified = false;
        for (int i = 0; i < pattern.Length;)
        {
            ReadOnlySpan<char> rest = pattern.AsSpan(i);
            int length = 1;
            bool afterQuantifier = quantified;
            quantified = false;
            if (rest[0] == '\\' && rest.Length > 1)
            {
                if (char.IsAsciiLetterOrDigit(rest[1]) && !"pPsSdDnrtfvxu".Contains(rest[1]))
                    throw Unsupported(rest[..2]);
                length = rest[1] is 'p' or 'P' && rest.IndexOf('}') is > 0 and int close ? close + 1 : 2;
            }
            else if (inSet)
            {
                if (rest[0] == '[' || rest.StartsWith("&&") || rest[0] == '-' && ignoresCase.Peek())
                    throw Unsupported(rest[..1]);
                inSet = rest[0] != ']';
            }
            else if (rest[0] == '[')
            {
                inSet = true;
                length = rest.StartsWith("[^]") ? 3 : rest.StartsWith("[^") || rest.StartsWith("[]") ? 2 : 1; // a ] here is a character
            }
            else if (rest[0] == '(')
            {
                string group = !rest.StartsWith("(?") ? "(" : s_groups.FirstOrDefault(pattern[i..].StartsWith)
                    ?? throw Unsupported(rest[..Math.Min(3, rest.Length)]);
                length = group.Length;
                ignoresCase.Push(ignoresCase.Peek() || group == "(?i:");
            }
            else if (rest[0] == ')' && ignoresCase.Count > 1)
                ignoresCase.Pop();
            else if (rest[0] is '^' or '$' || rest[0] == '+' && afterQuantifier)
                throw Unsupported(rest[..1]);
            else
            {
                quantified = rest[0] is '*' or '+' or '?' or '{';
                length = rest[0] == '{' && rest.IndexOf('}') is > 0 and int close ? close + 1 : 1;
            }
            bool longS = rest[0] is 's' or 'S' && ignoresCase.Peek();
            translated.Append(!longS ? rest[..length] : inSet ? "sſ" : "[sſ]");
            i += length;

            FormatException Unsupported(ReadOnlySpan<char> what) => new(
                $"The regular expression {pattern} has '{what}' at position {i}, which means something else in .NET: it is not supported.");
        }
        return translated.ToString();
    }
}
