using System.Text;

namespace ML.Rlhf;

/// <summary>
/// What each token stands for, in UTF-8. It depends on nothing but whether the token is the first of a text, so that tokens can be decoded
/// one at a time.
/// </summary>
internal sealed class TokenTexts
{
    private readonly byte[][] _bytes;
    private readonly Func<int, byte[]>? _first; // where the first token of a text stands for something else
    private readonly bool[] _special;

    /// <param name="content">Checked.</param>
    public TokenTexts(TokenizerContent content)
    {
        string?[] vocabulary = content.Vocabulary;
        _special = [.. vocabulary.Select(token => token is not null && content.SpecialTokens.ContainsKey(token))];
        Func<string, byte[]> decode = content.Kind switch
        {
            TokenizerKind.Characters => Encoding.UTF8.GetBytes,
            TokenizerKind.WordPiece => token => Encoding.UTF8.GetBytes(content.WordPiece!.TextOf(token, first: false)),
            TokenizerKind.SentencePieceBpe => token => SentencePiece(token, content.SentencePiece!.DecodesBytes, " "),
            _ => token => ByteAlphabet.TryRead(token, out byte[] bytes) ? bytes : Encoding.UTF8.GetBytes(token),
        };
        _bytes = [.. vocabulary.Select(token => token is null ? [] : decode(token))];
        _first = content.Kind == TokenizerKind.WordPiece
            ? id => Encoding.UTF8.GetBytes(content.WordPiece!.TextOf(vocabulary[id]!, first: true))
            : content.SentencePiece?.Leading switch
        {
            LeadingSpace.DropOne => id => _bytes[id] is [(byte)' ', .. var rest] ? rest : _bytes[id],
            LeadingSpace.DropFromFirstToken => id => SentencePiece(vocabulary[id]!, content.SentencePiece!.DecodesBytes, ""),
            _ => null,
        };
    }

    public int Count => _bytes.Length;

    /// <summary>Whether nothing is written for a token: there is none with this id, or it is special and they are left out.</summary>
    public bool IsSilent(int id, bool includeSpecialTokens) => _bytes[id].Length == 0 || _special[id] && !includeSpecialTokens;

    /// <summary>What a token stands for; for a special one, how it is written.</summary>
    /// <param name="id">The token.</param>
    /// <param name="first">Whether no other that is written stands before it.</param>
    public ReadOnlySpan<byte> Of(int id, bool first) => first && _first is not null ? _first(id) : _bytes[id];

    private static byte[] SentencePiece(string token, bool decodesBytes, string space) =>
        decodesBytes && SentencePieceBpe.TryReadByte(token, out byte value)
            ? [value]
            : Encoding.UTF8.GetBytes(token.Replace(SentencePieceBpe.Space.ToString(), space));
}
