namespace ML.Rlhf;

/// <summary>
/// GPT-2's way to write bytes as visible text: each of the 256 bytes has one printable character, so that vocabularies and merges can be
/// kept as strings. A byte that prints in Latin-1 stands for itself; the others take the characters from U+0100 on, in byte order
/// (the space is U+0120, "Ġ").
/// </summary>
internal static class ByteAlphabet
{
    private static readonly char[] s_symbols = MakeSymbols();
    private static readonly Dictionary<char, byte> s_bytes = s_symbols.Select((symbol, value) => (symbol, value))
        .ToDictionary(pair => pair.symbol, pair => (byte)pair.value);

    /// <summary>The character that stands for a byte.</summary>
    public static char Symbol(byte value) => s_symbols[value];

    /// <summary>Writes bytes in the alphabet.</summary>
    public static string Write(ReadOnlySpan<byte> bytes)
    {
        var symbols = new char[bytes.Length];
        for (int i = 0; i < bytes.Length; i++)
            symbols[i] = s_symbols[bytes[i]];
        return new string(symbols);
    }

    /// <summary>Reads bytes back; false when the text has a character that stands for no byte.</summary>
    public static bool TryRead(string symbols, out byte[] bytes)
    {
        bytes = new byte[symbols.Length];
        for (int i = 0; i < symbols.Length; i++)
        {
            if (!s_bytes.TryGetValue(symbols[i], out bytes[i]))
                return false;
        }
        return true;
    }

    private static char[] MakeSymbols()
    {
        var symbols = new char[256];
        int next = 256;
        for (int value = 0; value < 256; value++)
            symbols[value] = value is (>= '!' and <= '~') or (>= 0xA1 and <= 0xAC) or (>= 0xAE and <= 0xFF) ? (char)value : (char)next++;
        return symbols;
    }
}
