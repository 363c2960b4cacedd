using System.Text.RegularExpressions;

namespace ML.Rlhf.Tests.Tokenizers;

public class Gpt2PreTokenizerTests
{
    private static readonly Regex s_gpt2 = new(@"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+");

    [Fact]
    public void Pieces_are_those_of_the_reference_library()
    {
        foreach (var golden in TokenizerFixtures.Json("encode.json").GetProperty("cases").EnumerateArray())
        {
            string text = golden.GetProperty("text").GetString()!;
            Assert.Equal(golden.GetProperty("pieces").EnumerateArray().Select(piece => piece.GetString()!),
                Pieces(text).Select(piece => ByteAlphabet.Write(System.Text.Encoding.UTF8.GetBytes(piece))));
        }
    }

    [Fact]
    public void Pieces_are_those_of_the_regular_expression()
    {
        var random = new Random(3);
        for (int round = 0; round < 20_000; round++)
        {
            // The expression is right for characters of one UTF-16 unit, so it is asked about no others.
            string text = string.Concat(TokenizerFixtures.RandomText(random).Where(unit => !char.IsSurrogate(unit)));
            Assert.Equal(s_gpt2.Matches(text).Select(match => match.Value), Pieces(text));
        }
    }

    [Theory]
    [InlineData("x𝔘𝔫 y", "x𝔘𝔫", " y")]                  // letters beyond U+FFFF go with letters
    [InlineData(" 𠀀!", " 𠀀", "!")]
    [InlineData("𝟙2🙂", "𝟙2", "🙂")]                    // and digits with digits
    public void Characters_of_two_units_are_classed_as_characters(string text, params string[] pieces) =>
        Assert.Equal(pieces, Pieces(text));

    private static IEnumerable<string> Pieces(string text)
    {
        var preTokenizer = new Gpt2PreTokenizer();
        var pieces = preTokenizer.PreTokenize(text).ToList();
        Assert.Equal(pieces, preTokenizer.PreTokenize(text.AsSpan()));
        return pieces.Select(piece => text.Substring(piece.Offset, piece.Length));
    }
}
