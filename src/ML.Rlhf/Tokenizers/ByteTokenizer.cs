using System.Text;

namespace ML.Rlhf;

/// <summary>Ids 0 to 255 are the bytes of the text in UTF-8; 256 is the end of text.</summary>
internal sealed class ByteTokenizer : RuneTokenizer
{
    public const int EndOfText = 256;

    private static readonly byte[] s_bytes = [.. Enumerable.Range(0, 256).Select(value => (byte)value)];

    protected override void Encode(Rune rune, ReadOnlySpan<char> text, int index, List<int> ids)
    {
        Span<byte> bytes = stackalloc byte[4];
        foreach (byte value in bytes[..rune.EncodeToUtf8(bytes)])
            ids.Add(value);
    }

    protected override string TokenText(int id) => ByteAlphabet.Symbol((byte)id).ToString();

    protected override ReadOnlySpan<byte> TokenBytes(int id, bool first) =>
        id == EndOfText ? TextTokenizer.DefaultEndOfTextUtf8 : s_bytes.AsSpan(id, 1);
}
