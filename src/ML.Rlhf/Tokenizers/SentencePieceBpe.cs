using System.Globalization;
using System.Text;
using Microsoft.ML.Tokenizers;

namespace ML.Rlhf;

/// <summary>
/// Byte-pair encoding over the characters of a whole text, in which a space is written "▁" and a character that is no token is spelled in
/// bytes, as a tokenizer.json has it for Llama 2, Mistral and Gemma. (<see cref="BpeTokenizer"/> knows no byte fallback, and takes time
/// that grows with the square of a piece; <see cref="SentencePieceTokenizer"/> reads <c>tokenizer.model</c> only.)
/// </summary>
internal sealed class SentencePieceBpe : Utf8Tokenizer
{
    public const char Space = '▁';

    private readonly SentencePieceRules _rules;
    private readonly TokenTexts _texts;
    private readonly string?[] _vocabulary;
    private readonly Dictionary<string, int>.AlternateLookup<ReadOnlySpan<char>> _ids;
    private readonly PairMerging _merging;
    private readonly int?[] _bytes; // the token of each byte
    private readonly int? _unknown;

    public SentencePieceBpe(TokenizerContent content, TokenTexts texts)
    {
        _rules = content.SentencePiece!;
        _texts = texts;
        _vocabulary = content.Vocabulary;
        Dictionary<string, int> ids = content.Ids();
        _ids = ids.GetAlternateLookup<ReadOnlySpan<char>>();
        _merging = new PairMerging(ids, content.Merges);
        _bytes = [.. Enumerable.Range(0, 256).Select(value => ids.TryGetValue(ByteToken(value), out int id) ? id : (int?)null)];
        _unknown = _rules.UnknownToken is { } unknown ? ids[unknown] : null;
        Normalizer = _rules.CreateNormalizer();
    }

    /// <summary>How a byte is written that no token has a character for.</summary>
    public static string ByteToken(int value) => $"<0x{value:X2}>";

    /// <summary>The byte that such a token stands for.</summary>
    public static bool TryReadByte(string token, out byte value)
    {
        value = 0;
        return token.Length == 6 && token.StartsWith("<0x", StringComparison.Ordinal) && token[5] == '>'
            && byte.TryParse(token.AsSpan(3, 2), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out value);
    }

    public override Normalizer? Normalizer { get; }

    protected override ReadOnlySpan<byte> TokenBytes(int id, bool first) => _texts.Of(id, first);

    protected override EncodeResults<EncodedToken> EncodeToTokens(string? text, ReadOnlySpan<char> textSpan, EncodeSettings settings)
    {
        string? normalized = settings.ConsiderNormalization ? Normalizer?.Normalize(text ?? textSpan.ToString()) : null;
        ReadOnlySpan<char> source = normalized ?? text ?? textSpan;
        return Limit(Encode(source, atStart: true), source.Length, normalized, settings.MaxTokenCount);
    }

    /// <summary>The tokens of a normalized text.</summary>
    /// <param name="text">The text.</param>
    /// <param name="atStart">Whether it is the beginning of a text, not what follows an added token.</param>
    public List<EncodedToken> Encode(ReadOnlySpan<char> text, bool atStart)
    {
        if (text.IsEmpty)
            return [];
        string spaced = text.ToString().Replace(' ', Space);
        bool prefix = (_rules.Prefix == PrefixScheme.Always || _rules.Prefix == PrefixScheme.First && atStart) && spaced[0] != Space;
        if (prefix)
            spaced = Space + spaced;

        var tokens = new List<EncodedToken>();
        for (int start = 0; start < spaced.Length;)
        {
            int next = _rules.SplitWords ? spaced.IndexOf(Space, start + 1) : -1;
            int end = next < 0 ? spaced.Length : next;
            EncodePiece(spaced.AsSpan(start, end - start), start - (prefix ? 1 : 0), tokens);
            start = end;
        }
        return tokens;
    }

    private void EncodePiece(ReadOnlySpan<char> piece, int offset, List<EncodedToken> tokens)
    {
        List<Symbol> symbols = _rules.WholePieces && _ids.TryGetValue(piece, out int whole) ? [new(whole, 0, piece.Length)] : Spell(piece);
        foreach (Symbol symbol in _merging.Merge(symbols))
        {
            // The sign that was put before the text goes with its first character.
            Range place = Math.Max(0, offset + symbol.Start)..Math.Max(1, offset + symbol.End);
            tokens.Add(new EncodedToken(symbol.Id, _vocabulary[symbol.Id]!, place));
        }
    }

    /// <summary>A token for each character; several for one that is spelled in bytes.</summary>
    private List<Symbol> Spell(ReadOnlySpan<char> piece)
    {
        var symbols = new List<Symbol>(piece.Length);
        Span<byte> bytes = stackalloc byte[4];
        Symbol? unknown = null; // found last, and not in the list yet
        int start = 0;
        foreach (Rune rune in piece.EnumerateRunes())
        {
            int end = start + rune.Utf16SequenceLength;
            int byteCount = rune.EncodeToUtf8(bytes);
            if (_ids.TryGetValue(piece[start..end], out int id))
            {
                AddUnknown();
                symbols.Add(new Symbol(id, start, end));
            }
            else if (_rules.ByteFallback && HasAll(bytes[..byteCount]))
            {
                foreach (byte value in bytes[..byteCount])
                    symbols.Add(new Symbol(_bytes[value]!.Value, start, end));
            }
            else if (_unknown is { } unknownId)
            {
                if (unknown is not null && _rules.FuseUnknown)
                    unknown = unknown.Value with { End = end };
                else
                {
                    AddUnknown();
                    unknown = new Symbol(unknownId, start, end);
                }
            }
            start = end;
        }
        AddUnknown();
        return symbols;

        void AddUnknown()
        {
            if (unknown is { } symbol)
                symbols.Add(symbol);
            unknown = null;
        }
    }

    private bool HasAll(ReadOnlySpan<byte> bytes)
    {
        foreach (byte value in bytes)
        {
            if (_bytes[value] is null)
                return false;
        }
        return true;
    }
}
