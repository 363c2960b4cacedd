using System.Buffers.Binary;
using System.Text.RegularExpressions;

namespace ML.Rlhf.TestSupport;

/// <summary>Damages files for fuzz tests, in ways that accidents and attackers know. The same seed gives the same damage.</summary>
internal sealed partial class Mutator(int seed)
{
    /// <summary>Numbers at the borders of what readers count with.</summary>
    private static readonly long[] s_borders =
        [0, 1, -1, 7, 255, 65_536, 99_999_999, 100_000_001, int.MaxValue, uint.MaxValue, 1L << 40, long.MaxValue, long.MinValue];

    private static readonly string[] s_jsonValues =
    [
        .. s_borders.Select(n => n.ToString()), "0.5", "1e3", "1e999", "-0", "18446744073709551616", "null", "true", "{}", "[]", "[0]",
        "[[]]", "\"\"", "\"\\u0000\"", "\"\\ud800\"", "\"../x\"", "\"/etc/passwd\"", "\"C:\\\\x\"", "\"F16\"", "\"I64\"", "\"F4\"",
        new string('[', 200), $"\"{new string('x', 5000)}\"",
    ];

    private readonly Random _random = new(seed);

    /// <summary>A number from 0 up to, but not including, <paramref name="end"/>.</summary>
    public int Next(int end) => _random.Next(end);

    /// <summary>Changes a few bytes, lengths or pieces of a file. The result is at most twice as long.</summary>
    public byte[] Bytes(byte[] content)
    {
        for (int changes = 1 + Next(4); changes > 0 && content.Length > 0; changes--)
            content = OneChange(content);
        return content;
    }

    /// <summary>
    /// Changes a few tokens of a JSON text. Most often the result is still JSON and says something else; sometimes it is none.
    /// </summary>
    public string Json(string json)
    {
        for (int changes = 1 + Next(3); changes > 0; changes--)
        {
            var tokens = JsonToken().Matches(json);
            if (tokens.Count == 0)
                return json;
            var token = tokens[Next(tokens.Count)];
            var other = tokens[Next(tokens.Count)];
            // A value takes the place of a value, so that the text stays JSON; now and then anything takes the place of anything.
            bool isValue = token.Length > 1 || char.IsDigit(token.Value[0]);
            string instead = Next(10) switch
            {
                0 => "",
                1 => token.Value + token.Value,
                < 4 => other.Value,
                < 8 when isValue => s_jsonValues[Next(s_jsonValues.Length)],
                _ when isValue => Nearby(token.Value),
                _ => token.Value,
            };
            json = json[..token.Index] + instead + json[(token.Index + token.Length)..];
        }
        return json;
    }

    /// <summary>A number a little larger or smaller, or a text with one letter changed.</summary>
    private string Nearby(string token)
    {
        if (long.TryParse(token, out long number))
            return (number + Next(17) - 8).ToString();
        if (token.Length <= 2)
            return token;
        int place = 1 + Next(token.Length - 2);
        return token[..place] + (char)('!' + Next(94)) + token[(place + 1)..];
    }

    private byte[] OneChange(byte[] content)
    {
        int place = Next(content.Length), length = 1 + Next(Math.Min(content.Length - place, 1 << Next(12)));
        switch (Next(7))
        {
            case 0: // a flipped bit
                content = [.. content];
                content[place] ^= (byte)(1 << Next(8));
                return content;
            case 1: // a byte of another kind
                content = [.. content];
                content[place] = (byte)Next(256);
                return content;
            case 2: // a length that lies; most formats have theirs at the beginning
                content = [.. content];
                place = Next(2) == 0 ? 0 : place;
                Span<byte> number = stackalloc byte[sizeof(long)];
                BinaryPrimitives.WriteInt64LittleEndian(number, s_borders[Next(s_borders.Length)]);
                number[..Math.Min(number.Length, content.Length - place)].CopyTo(content.AsSpan(place));
                return content;
            case 3: // cut
                return content[..place];
            case 4: // a piece is missing
                return [.. content[..place], .. content[(place + length)..]];
            case 5: // a piece stands twice
                return [.. content[..(place + length)], .. content[place..]];
            default: // noise
                content = [.. content];
                _random.NextBytes(content.AsSpan(place, length));
                return content;
        }
    }

    [GeneratedRegex("\"(\\\\.|[^\"\\\\])*\"|-?[0-9][0-9.eE+-]*|[a-z]+|[{}\\[\\]:,]")]
    private static partial Regex JsonToken();
}
