using System.Globalization;
using System.Text;

namespace ML.Rlhf;

/// <summary>A form that a text is brought to before it is cut into tokens.</summary>
internal enum UnicodeForm
{
    /// <summary>The text as it is.</summary>
    None,

    /// <summary>Form C: a letter and its marks as one character, where there is one.</summary>
    Nfc,

    /// <summary>Form D: letters and marks apart.</summary>
    Nfd,
}

/// <summary>
/// Unicode's canonical normalization forms, by Unicode Standard Annex #15. <see cref="string.Normalize()"/> has them only where ICU is at
/// hand: in a program with <c>InvariantGlobalization</c>, as in small containers, it returns the text as it is, and a model would silently
/// get other tokens.
/// </summary>
internal static class CanonicalForms
{
    // Hangul syllables are put together by arithmetic: 588 for each leading consonant, 28 for each vowel.
    private const int FirstSyllable = 0xAC00, Syllables = 11172, FirstLeading = 0x1100, FirstVowel = 0x1161, FirstTrailing = 0x11A7;
    private const int Vowels = 21, Trailings = 28;

    private static readonly Dictionary<int, (int First, int Second)> s_decompositions = [];
    private static readonly Dictionary<(int First, int Second), int> s_compositions = [];
    private static readonly Dictionary<int, int> s_classes = [];

    static CanonicalForms()
    {
        using Stream stream = typeof(CanonicalForms).Assembly.GetManifestResourceStream("CanonicalForms.txt")!;
        using var reader = new StreamReader(stream);
        while (reader.ReadLine() is { } line)
        {
            if (line.StartsWith('#'))
                continue;
            string[] parts = line.Split(' ');
            int first = Character(parts[0]);
            if (parts[1] is "=" or ">")
            {
                var decomposition = (Character(parts[2]), parts.Length > 3 ? Character(parts[3]) : 0);
                s_decompositions.Add(first, decomposition);
                if (parts[1] == "=")
                    s_compositions.Add(decomposition, first);
            }
            else
            {
                for (int c = first; c <= Character(parts[1]); c++)
                    s_classes.Add(c, int.Parse(parts[2], CultureInfo.InvariantCulture));
            }
        }
        static int Character(string hex) => int.Parse(hex, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture);
    }

    /// <summary>What brings a text to a form.</summary>
    public static Func<string, string> Transform(UnicodeForm form) => form switch
    {
        UnicodeForm.Nfc => Compose,
        UnicodeForm.Nfd => Decompose,
        _ => text => text,
    };

    /// <summary>Normalization form D: letters and their marks apart.</summary>
    public static string Decompose(string text)
    {
        if (!text.AsSpan().ContainsAnyInRange('\u00C0', char.MaxValue))
            return text;
        return Write(DecomposedCharacters(text));
    }

    /// <summary>Normalization form C: letters and their marks in one character where Unicode has one.</summary>
    public static string Compose(string text)
    {
        if (!text.AsSpan().ContainsAnyInRange('\u0300', char.MaxValue))
            return text;
        List<int> characters = DecomposedCharacters(text);
        int starter = -1, kept = 0, lastClass = -1; // lastClass: of the character kept last behind the starter, −1 if there is none
        for (int i = 0; i < characters.Count; i++)
        {
            int character = characters[i];
            int combiningClass = ClassOf(character);
            bool blocked = lastClass >= combiningClass;
            if (starter >= 0 && !blocked && TryCompose(characters[starter], character, out int composed))
            {
                characters[starter] = composed;
                continue;
            }
            if (combiningClass == 0)
                starter = kept;
            lastClass = combiningClass == 0 ? -1 : combiningClass;
            characters[kept++] = character;
        }
        characters.RemoveRange(kept, characters.Count - kept);
        return Write(characters);
    }

    private static List<int> DecomposedCharacters(string text)
    {
        var characters = new List<int>(text.Length + 8);
        foreach (Rune rune in text.EnumerateRunes())
            AddDecomposed(rune.Value, characters);

        // Marks in the order of their classes; those of one class stay as they are.
        for (int start = 0; start < characters.Count; start++)
        {
            int end = start;
            while (end < characters.Count && ClassOf(characters[end]) != 0)
                end++;
            if (end - start > 1)
            {
                int[] marks = [.. characters[start..end].OrderBy(ClassOf)];
                for (int i = 0; i < marks.Length; i++)
                    characters[start + i] = marks[i];
            }
            start = end;
        }
        return characters;
    }

    private static void AddDecomposed(int character, List<int> characters)
    {
        int syllable = character - FirstSyllable;
        if ((uint)syllable < Syllables)
        {
            characters.Add(FirstLeading + syllable / (Vowels * Trailings));
            characters.Add(FirstVowel + syllable / Trailings % Vowels);
            if (syllable % Trailings != 0)
                characters.Add(FirstTrailing + syllable % Trailings);
        }
        else if (s_decompositions.TryGetValue(character, out var parts))
        {
            AddDecomposed(parts.First, characters);
            if (parts.Second != 0)
                characters.Add(parts.Second);
        }
        else
            characters.Add(character);
    }

    private static bool TryCompose(int first, int second, out int composed)
    {
        if (first - FirstLeading is >= 0 and < Syllables / (Vowels * Trailings) && second - FirstVowel is >= 0 and < Vowels)
        {
            composed = FirstSyllable + ((first - FirstLeading) * Vowels + second - FirstVowel) * Trailings;
            return true;
        }
        if (first - FirstSyllable is >= 0 and < Syllables && (first - FirstSyllable) % Trailings == 0
            && second - FirstTrailing is > 0 and < Trailings)
        {
            composed = first + second - FirstTrailing;
            return true;
        }
        return s_compositions.TryGetValue((first, second), out composed);
    }

    private static int ClassOf(int character) => character < 0x300 ? 0 : s_classes.GetValueOrDefault(character);

    private static string Write(List<int> characters)
    {
        var text = new StringBuilder(characters.Count);
        foreach (int character in characters)
            text.Append(new Rune(character));
        return text.ToString();
    }
}
