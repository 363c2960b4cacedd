using System.Text;

namespace ML.Rlhf;

/// <summary>Each character (Unicode code point) of the vocabulary is a token, in their order; the last id is the end of text.</summary>
internal sealed class CharacterTokenizer : RuneTokenizer
{
    private readonly IReadOnlyList<string> _vocabulary;
    private readonly Dictionary<Rune, int> _ids = [];
    private readonly int _replacementId = -1;

    /// <param name="vocabulary">One character for each id, then the text of the end-of-text token.</param>
    /// <param name="replaceUnknown">Read U+FFFD, which the vocabulary then has, for a character that is not in it.</param>
    public CharacterTokenizer(IReadOnlyList<string> vocabulary, bool replaceUnknown)
    {
        _vocabulary = vocabulary;
        for (int id = 0; id < vocabulary.Count - 1; id++)
            _ids.Add(Rune.GetRuneAt(vocabulary[id], 0), id);
        if (replaceUnknown)
            _replacementId = _ids[Rune.ReplacementChar];
    }

    /// <summary>The vocabulary of a corpus.</summary>
    public static TextTokenizer Train(IEnumerable<string> texts, bool replaceUnknown = false, Action? checkCanceled = null)
    {
        var runes = new HashSet<Rune>();
        foreach (string text in texts)
        {
            checkCanceled?.Invoke();
            foreach (Rune rune in text.EnumerateRunes())
                runes.Add(rune);
        }
        if (runes.Count == 0)
            throw new ArgumentException(
                "The corpus has no text to learn characters from: it has no rows, or all of them are empty.", nameof(texts));
        if (replaceUnknown)
            runes.Add(Rune.ReplacementChar);
        return TextTokenizer.FromCharacters([.. runes.Order().Select(rune => rune.ToString())], replaceUnknown);
    }

    protected override void Encode(Rune rune, ReadOnlySpan<char> text, int index, List<int> ids)
    {
        if (!_ids.TryGetValue(rune, out int id))
            id = _replacementId >= 0 ? _replacementId : throw Unknown(rune, text, index);
        ids.Add(id);
    }

    protected override string TokenText(int id) => _vocabulary[id];

    protected override ReadOnlySpan<byte> TokenBytes(int id, bool first) => Encoding.UTF8.GetBytes(_vocabulary[id]);

    private ArgumentException Unknown(Rune rune, ReadOnlySpan<char> text, int index)
    {
        int start = Math.Max(0, index - 20);
        string before = text[start..index].ToString();
        return new ArgumentException(
            $"Character '{rune}' (U+{rune.Value:X4}) at position {index}, after \"{before}\", is not among the {_ids.Count} characters "
            + "of this tokenizer. Train it on text that has this character, train it with replaceUnknown: true, or use a byte-level "
            + "tokenizer, to which no character is unknown.",
            nameof(text));
    }
}
