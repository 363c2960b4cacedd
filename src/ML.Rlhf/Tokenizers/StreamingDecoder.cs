using System.Text;

namespace ML.Rlhf;

/// <summary>
/// Turns tokens into text as they arrive, for showing an answer while it is being generated. A character may be spread over several
/// tokens; it comes out with the one that completes it, never in halves. All the text that <see cref="Push"/> and <see cref="Finish"/>
/// return, put together, is what <see cref="TextTokenizer.Decode"/> gives for all the tokens.
/// </summary>
/// <remarks>Holds the state of one stream: use one for each answer, from one thread at a time.</remarks>
public sealed class StreamingDecoder
{
    private readonly TextTokenizer _tokenizer;
    private readonly Decoder _utf8 = Encoding.UTF8.GetDecoder();
    private bool _first = true;

    internal StreamingDecoder(TextTokenizer tokenizer) => _tokenizer = tokenizer;

    /// <summary>Takes the next token.</summary>
    /// <param name="tokenId">Its id, from 0 to <see cref="TextTokenizer.VocabularySize"/> − 1. A special token has no text.</param>
    /// <returns>The text that is complete by now and has not been returned yet; empty while a character is incomplete.</returns>
    /// <exception cref="ArgumentOutOfRangeException">The id is not in the vocabulary.</exception>
    public string Push(int tokenId) => Decode(_tokenizer.BytesOf(tokenId, ref _first), flush: false);

    /// <summary>Ends the stream; the decoder can then take another one.</summary>
    /// <returns>U+FFFD when the stream stopped inside a character, otherwise nothing.</returns>
    public string Finish()
    {
        _first = true;
        return Decode([], flush: true);
    }

    private string Decode(ReadOnlySpan<byte> bytes, bool flush)
    {
        var text = new char[_utf8.GetCharCount(bytes, flush)];
        return new string(text, 0, _utf8.GetChars(bytes, text, flush));
    }
}
