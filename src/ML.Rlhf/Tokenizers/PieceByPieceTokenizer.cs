using System.Buffers;
using System.Text;
using Microsoft.ML.Tokenizers;

namespace ML.Rlhf;

/// <summary>
/// A byte-level BPE that does two things for which <see cref="BpeTokenizer"/> has no setting: it can look a piece up in the vocabulary
/// before it merges anything (<c>ignore_merges</c>), and it merges long pieces, such as a million spaces, without taking their square.
/// </summary>
/// <param name="merging">Encodes the pieces that are no token and not long.</param>
/// <param name="content">Checked.</param>
/// <param name="pieces">Id of each token that a piece may be, by its text in the <see cref="ByteAlphabet"/>; null where none may.</param>
internal sealed class PieceByPieceTokenizer(BpeTokenizer merging, TokenizerContent content, Dictionary<string, int>? pieces) : Tokenizer
{
    /// <summary>In UTF-16 units. Longer than any word; shorter than what takes noticeably long.</summary>
    public const int LongPiece = 500;

    private readonly Lazy<(Dictionary<string, int> Ids, PairMerging Merging)> _long = new(() =>
    {
        var ids = content.Ids();
        return (ids, new PairMerging(ids, content.Merges));
    });


    public override PreTokenizer? PreTokenizer => merging.PreTokenizer;

    public override Normalizer? Normalizer => merging.Normalizer;

    protected override EncodeResults<EncodedToken> EncodeToTokens(string? text, ReadOnlySpan<char> textSpan, EncodeSettings settings)
    {
        string? normalized = settings.ConsiderNormalization ? Normalizer?.Normalize(text ?? textSpan.ToString()) : null;
        ReadOnlySpan<char> source = normalized ?? text ?? textSpan;
        IEnumerable<(int, int)> cuts = settings.ConsiderPreTokenization ? PreTokenizer!.PreTokenize(source) : [(0, source.Length)];
        var tokens = new List<EncodedToken>();
        foreach (var (offset, length) in cuts)
        {
            ReadOnlySpan<char> piece = source.Slice(offset, length);
            if (pieces is not null && ByteAlphabet.Write(Encoding.UTF8.GetBytes(piece.ToString())) is var symbols
                && pieces.TryGetValue(symbols, out int id))
                tokens.Add(new EncodedToken(id, symbols, offset..(offset + length)));
            else if (length > LongPiece)
                AddLong(piece, offset, tokens);
            else
            {
                foreach (EncodedToken token in merging.EncodeToTokens(piece, out _, false, false))
                    tokens.Add(new EncodedToken(token.Id, token.Value, Shift(token.Offset, offset)));
            }
        }

        bool all = tokens.Count <= settings.MaxTokenCount;
        int consumed = all ? source.Length : tokens[settings.MaxTokenCount].Offset.Start.Value;
        return new EncodeResults<EncodedToken>
        {
            Tokens = all ? tokens : tokens[..settings.MaxTokenCount],
            NormalizedText = normalized,
            CharsConsumed = consumed,
        };
    }

    private void AddLong(ReadOnlySpan<char> piece, int offset, List<EncodedToken> tokens)
    {
        var (ids, merging) = _long.Value;
        var symbols = new List<Symbol>(piece.Length);
        Span<byte> bytes = stackalloc byte[4];
        int start = offset;
        foreach (Rune rune in piece.EnumerateRunes())
        {
            int end = start + rune.Utf16SequenceLength;
            foreach (byte value in bytes[..rune.EncodeToUtf8(bytes)])
                symbols.Add(new Symbol(ids[ByteAlphabet.Symbol(value).ToString()], start, end));
            start = end;
        }
        foreach (Symbol symbol in merging.Merge(symbols))
            tokens.Add(new EncodedToken(symbol.Id, content.Vocabulary[symbol.Id]!, symbol.Start..symbol.End));
    }

    public override string Decode(IEnumerable<int> ids) => merging.Decode(ids);

    public override OperationStatus Decode(IEnumerable<int> ids, Span<char> destination, out int idsConsumed, out int charsWritten) =>
        merging.Decode(ids, destination, out idsConsumed, out charsWritten);

    private static Range Shift(Range range, int by) => (range.Start.Value + by)..(range.End.Value + by);
}
