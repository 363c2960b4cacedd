using System.Buffers;
using System.Text;
using Microsoft.ML.Tokenizers;

namespace ML.Rlhf;

/// <summary>
/// A byte-level BPE that looks a piece up in the vocabulary before it merges anything (<c>ignore_merges</c>), which
/// <see cref="BpeTokenizer"/> has no setting for.
/// </summary>
/// <param name="merging">Encodes the pieces that are no token.</param>
/// <param name="pieces">Id of each token, by its text in the <see cref="ByteAlphabet"/>; without the special ones.</param>
internal sealed class WholePieceTokenizer(BpeTokenizer merging, Dictionary<string, int> pieces) : Tokenizer
{
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
            string symbols = ByteAlphabet.Write(Encoding.UTF8.GetBytes(piece.ToString()));
            if (pieces.TryGetValue(symbols, out int id))
                tokens.Add(new EncodedToken(id, symbols, offset..(offset + length)));
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

    public override string Decode(IEnumerable<int> ids) => merging.Decode(ids);

    public override OperationStatus Decode(IEnumerable<int> ids, Span<char> destination, out int idsConsumed, out int charsWritten) =>
        merging.Decode(ids, destination, out idsConsumed, out charsWritten);

    private static Range Shift(Range range, int by) => (range.Start.Value + by)..(range.End.Value + by);
}
