namespace ML.Rlhf.Tests.Tokenizers;

public class SplitPatternTests
{
    [Theory]
    [InlineData(@"\p{N}{1,3}", "a1234𝟙b", "a", "123", "4𝟙", "b")]        // 𝟙 is a digit, of two UTF-16 units
    [InlineData(@"\p{L}+", "x𝔘y🙂z", "x𝔘y", "🙂", "z")]
    [InlineData(@"[^\s]", "🙂🙂 ", "🙂", "🙂", " ")]
    [InlineData(@"(?i:'s|'k)", "I'S it'ſ 'K'", "I", "'S", " it", "'ſ", " ", "'K", "'")]
    [InlineData(@"(?i:'[sk])|s", "'ſsſ", "'ſ", "s", "ſ")]                 // s is one of its forms only where case does not matter
    [InlineData(@"[]x]|[^]a]", "]ax", "]", "a", "x")]
    public void Pieces_are_cut_at_characters(string pattern, string text, params string[] pieces) =>
        Assert.Equal(pieces, new SplitPattern(pattern, keepRest: true).Split(text)
            .Select(piece => text.Substring(piece.Offset, piece.Length)));

    [Fact]
    public void What_lies_between_matches_can_be_left_out() =>
        Assert.Equal([(1, 1), (3, 2)], new SplitPattern(@"\d+", keepRest: false).Split("a1b23c"));

    [Theory]
    [InlineData(@"\w+", @"'\w' at position 0")]
    [InlineData(@"a|^b", "'^' at position 2")]
    [InlineData(@"\s+$", "'$' at position 3")]
    [InlineData(@"\p{L}++", "'+' at position 6")]
    [InlineData(@"\p{N}{1,3}+", "'+' at position 10")]
    [InlineData(@"[a-z&&[^b]]", "'&' at position 4")]
    [InlineData(@"[[:alpha:]]", "'[' at position 1")]
    [InlineData(@"(?i)a|b", "'(?i' at position 0")]
    [InlineData(@"(?i:[a-z])", "'-' at position 6")]
    [InlineData(@"\p{Han}", "cannot be read")]
    [InlineData(@"(a", "cannot be read")]
    public void What_NET_would_read_otherwise_is_refused(string pattern, string message) =>
        Assert.Contains(message, Assert.Throws<FormatException>(() => new SplitPattern(pattern, keepRest: true)).Message);

    [Fact]
    public void A_pattern_that_never_ends_is_stopped() =>
        Assert.Throws<FormatException>(
            () => new SplitPattern("(a+)+b", keepRest: true, TimeSpan.FromMilliseconds(50)).Split(new string('a', 100)));
}
