using System.Buffers.Binary;
using System.Text;
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

    /// <summary>
    /// Changes a few pieces of a text: each gives way to nothing, to a hostile value, to another piece, or stands there many times. Costs
    /// little, whatever the length, and favours the ends, where a file is more than a list.
    /// </summary>
    /// <param name="text">The text.</param>
    /// <param name="values">What a piece may be replaced by; null for JSON's.</param>
    public string Pieces(SplitText text, IReadOnlyList<string>? values = null)
    {
        values ??= s_jsonValues;
        var changes = new SortedDictionary<int, string>();
        for (int count = 1 + Next(2) * Next(4); count > 0 && text.Count > 0; count--)
        {
            int piece = Next(3) switch
            {
                0 => Next(Math.Min(text.Count, 250)),
                1 => text.Count - 1 - Next(Math.Min(text.Count, 100)),
                _ => Next(text.Count),
            };
            changes[piece] = Next(12) switch
            {
                0 => "",
                1 => text[piece] + text[piece],
                2 => text.Between(Next(text.Count), 1 + Next(20)),
                3 => string.Concat(Enumerable.Repeat(text.Between(piece, 1 + Next(6)), 1 << Next(9))),
                < 7 => text[Next(text.Count)],
                < 10 => values[Next(values.Count)],
                _ => Nearby(text[piece]),
            };
        }
        return text.With(changes);
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
    internal static partial Regex JsonToken();
}

/// <summary>A text, cut into pieces once, so that many changed copies of it cost little.</summary>
internal sealed class SplitText
{
    private readonly string _text;
    private readonly (int Start, int Length)[] _pieces;

    /// <param name="text">The text.</param>
    /// <param name="piece">What a piece is; null for JSON's tokens. What lies between two pieces always stays.</param>
    public SplitText(string text, Regex? piece = null)
    {
        _text = text;
        _pieces = [.. (piece ?? Mutator.JsonToken()).Matches(text).Select(match => (match.Index, match.Length))];
    }

    /// <summary>How many pieces there are.</summary>
    public int Count => _pieces.Length;

    /// <summary>A piece.</summary>
    public string this[int piece] => _text.Substring(_pieces[piece].Start, _pieces[piece].Length);

    /// <summary>Several pieces and what lies between them.</summary>
    public string Between(int first, int count)
    {
        var (start, length) = _pieces[Math.Min(first + count, Count) - 1];
        return _text[_pieces[first].Start..(start + length)];
    }

    /// <summary>The text with some pieces replaced.</summary>
    public string With(SortedDictionary<int, string> changes)
    {
        var result = new StringBuilder(_text.Length);
        int end = 0;
        foreach (var (piece, instead) in changes)
        {
            result.Append(_text, end, _pieces[piece].Start - end).Append(instead);
            end = _pieces[piece].Start + _pieces[piece].Length;
        }
        return result.Append(_text, end, _text.Length - end).ToString();
    }
}
