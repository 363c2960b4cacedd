using System.Buffers;
using System.Text;
using Microsoft.ML.Tokenizers;

namespace ML.Rlhf;

/// <summary>A tokenizer of our own: its tokens stand for bytes of UTF-8.</summary>
internal abstract class Utf8Tokenizer : Tokenizer
{
    /// <summary>The bytes that a token stands for.</summary>
    /// <param name="id">The token.</param>
    /// <param name="first">Whether no other stands before it.</param>
    protected abstract ReadOnlySpan<byte> TokenBytes(int id, bool first);

    public override string Decode(IEnumerable<int> ids)
    {
        var bytes = new ArrayBufferWriter<byte>();
        bool first = true;
        foreach (int id in ids)
        {
            bytes.Write(TokenBytes(id, first));
            first = false;
        }
        return Encoding.UTF8.GetString(bytes.WrittenSpan);
    }

    public override OperationStatus Decode(IEnumerable<int> ids, Span<char> destination, out int idsConsumed, out int charsWritten)
    {
        Decoder utf8 = Encoding.UTF8.GetDecoder();
        int read = idsConsumed = charsWritten = 0;
        foreach (int id in ids)
        {
            ReadOnlySpan<byte> bytes = TokenBytes(id, first: read == 0);
            int count = utf8.GetCharCount(bytes, flush: false);
            if (count > destination.Length - charsWritten)
                return OperationStatus.DestinationTooSmall;
            charsWritten += utf8.GetChars(bytes, destination[charsWritten..], flush: false);
            read++;
            if (count > 0)
                idsConsumed = read; // tokens of a character that is not complete are read again
        }
        if (utf8.GetCharCount([], flush: true) > destination.Length - charsWritten)
            return OperationStatus.DestinationTooSmall;
        charsWritten += utf8.GetChars([], destination[charsWritten..], flush: true);
        idsConsumed = read;
        return OperationStatus.Done;
    }

    /// <summary>As many of the tokens of a text as were asked for.</summary>
    protected static EncodeResults<EncodedToken> Limit(List<EncodedToken> tokens, int textLength, string? normalizedText, int maximum) =>
        new()
        {
            Tokens = tokens.Count <= maximum ? tokens : tokens[..maximum],
            NormalizedText = normalizedText,
            CharsConsumed = tokens.Count <= maximum ? textLength : tokens[maximum].Offset.Start.Value,
        };
}
