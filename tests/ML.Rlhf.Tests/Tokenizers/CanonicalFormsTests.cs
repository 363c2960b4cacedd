namespace ML.Rlhf.Tests.Tokenizers;

public class CanonicalFormsTests
{
    // From NormalizationTest.txt of the Unicode Character Database: source, form C, form D.
    [Theory]
    [InlineData("plain, Ωhm", "plain, Ωhm", "plain, Ωhm")]
    [InlineData("\u00E9", "\u00E9", "e\u0301")]
    [InlineData("\u212B\u2126", "\u00C5\u03A9", "A\u030A\u03A9")]                                     // composed to others
    [InlineData("\u1E9B\u0323", "\u1E9B\u0323", "\u017F\u0323\u0307")]
    [InlineData("q\u0307\u0323", "q\u0323\u0307", "q\u0323\u0307")]                                   // marks in order
    [InlineData("D\u0307\u0323\u031B", "\u1E0C\u031B\u0307", "D\u031B\u0323\u0307")]
    [InlineData("\u0344\u0958", "\u0308\u0301\u0915\u093C", "\u0308\u0301\u0915\u093C")]              // never composed again
    [InlineData("a\u0315\u0300\u05AE\u0300b", "\u00E0\u05AE\u0300\u0315b", "a\u05AE\u0300\u0300\u0315b")]
    [InlineData("\uAC00\uD7A3\u1100\u1161\u11A8", "\uAC00\uD7A3\uAC01", "\u1100\u1161\u1112\u1175\u11C2\u1100\u1161\u11A8")]
    [InlineData("\U0001D15E", "\U0001D157\U0001D165", "\U0001D157\U0001D165")]
    [InlineData("\u1100\uAC00\u11A8", "\u1100\uAC01", "\u1100\u1100\u1161\u11A8")]
    [InlineData("\u09C7\u0334\u09BE", "\u09C7\u0334\u09BE", "\u09C7\u0334\u09BE")]                    // blocked
    public void Forms_are_those_of_the_standard(string source, string composed, string decomposed)
    {
        Assert.Equal(composed, CanonicalForms.Compose(source));
        Assert.Equal(composed, CanonicalForms.Compose(decomposed));
        Assert.Equal(decomposed, CanonicalForms.Decompose(source));
        Assert.Equal(decomposed, CanonicalForms.Decompose(composed));
    }
}
