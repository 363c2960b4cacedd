using System.Text;
using System.Text.Json.Serialization;
using Microsoft.ML.Tokenizers;

namespace ML.Rlhf;

/// <summary>What a byte-level BPE does to a text before it merges bytes. The defaults are GPT-2's.</summary>
internal sealed record ByteLevelRules
{
    /// <summary>The Unicode normalization form that the text is brought to; Qwen has NFC, most have none.</summary>
    public UnicodeForm Normalization { get; init; }

    /// <summary>Text that does not begin with a space gets one.</summary>
    public bool PrefixSpace { get; init; }

    /// <summary>Cut the text into pieces, one after the other; no merge crosses a piece.</summary>
    public SplitRule[] Splits { get; init; } = [SplitRule.Gpt2];

    /// <summary>A piece that is a token is that token, whatever the merges would make of it (<c>ignore_merges</c>; Llama 3).</summary>
    public bool WholePieces { get; init; }

    /// <summary>Whether nothing differs from GPT-2's way.</summary>
    [JsonIgnore]
    public bool IsDefault =>
        Normalization == UnicodeForm.None && !PrefixSpace && !WholePieces && Splits is [var only] && only == SplitRule.Gpt2;

    /// <exception cref="FormatException">A rule cannot be read.</exception>
    public PreTokenizer CreatePreTokenizer() =>
        Splits is [var only] && only == SplitRule.Gpt2 ? new Gpt2PreTokenizer() : new SplittingPreTokenizer(Splits);

    /// <summary>What brings the text to its form; null for nothing.</summary>
    public TextNormalizer? CreateNormalizer() =>
        Normalization == UnicodeForm.None ? null : new TextNormalizer(CanonicalForms.Transform(Normalization));

    /// <summary>The same, with the space before the text.</summary>
    public TextNormalizer? CreatePrefixingNormalizer() =>
        PrefixSpace ? new TextNormalizer(CanonicalForms.Transform(Normalization), " ") : CreateNormalizer();
}

/// <summary>One cut of a text into pieces.</summary>
/// <param name="Pattern">The regular expression, in the words of a tokenizer.json.</param>
/// <param name="KeepRest">Whether what lies between two matches is a piece, too; it is dropped otherwise.</param>
internal sealed record SplitRule(string Pattern, bool KeepRest = true)
{
    public static SplitRule Gpt2 { get; } = new(@"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+");
}

/// <summary>Cuts text by several rules, each inside the pieces of the one before.</summary>
internal sealed class SplittingPreTokenizer : PreTokenizer
{
    private readonly Func<ReadOnlySpan<char>, List<(int Offset, int Length)>>[] _splits;

    /// <exception cref="FormatException">A rule cannot be read.</exception>
    public SplittingPreTokenizer(IEnumerable<SplitRule> rules) => _splits =
    [
        .. rules.Select<SplitRule, Func<ReadOnlySpan<char>, List<(int, int)>>>(rule => rule == SplitRule.Gpt2
            ? text => [.. new Gpt2PreTokenizer().PreTokenize(text)]
            : new SplitPattern(rule.Pattern, rule.KeepRest).Split),
    ];

    public override IEnumerable<(int Offset, int Length)> PreTokenize(string text) => PreTokenize(text.AsSpan());

    public override IEnumerable<(int Offset, int Length)> PreTokenize(ReadOnlySpan<char> text)
    {
        List<(int Offset, int Length)> pieces = text.IsEmpty ? [] : [(0, text.Length)];
        foreach (var split in _splits)
        {
            var finer = new List<(int, int)>();
            foreach (var (offset, length) in pieces)
            {
                foreach (var part in split(text.Slice(offset, length)))
                    finer.Add((offset + part.Offset, part.Length));
            }
            pieces = finer;
        }
        return pieces;
    }
}
