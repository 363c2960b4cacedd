using Microsoft.ML;

namespace ML.Rlhf.Tests.Tokenizers;

/// <summary>Long texts of a byte-level BPE take another way to the same tokens.</summary>
public sealed class LongTextTests
{
    public static TheoryData<string, string> Runs => new MatrixTheoryData<string, string>(
        ["qwen2", "digits", "prefix-space"], [" ", "a", "🙂", "e\u0301", "\r\n", "ab ", "The fog, 42 ships 🙂 don't. "]);

    [Theory]
    [MemberData(nameof(Runs))]
    public void A_long_run_gives_the_tokens_and_offsets_that_the_library_gives(string name, string unit)
    {
        var tokenizer = new MLContext().Rlhf().Tokenizers.FromPretrained(TokenizerFixtures.PathOf($"pretrained/{name}"));
        string text = $"It is said:{string.Concat(Enumerable.Repeat(unit, 10_100 / unit.Length))}x";
        Assert.True(text.Length > 20 * PieceByPieceTokenizer.LongPiece);

        var tokens = tokenizer.EncodeToTokens(text);

        var expected = tokenizer.Tokenizer.EncodeToTokens(text, out string? normalized);
        Assert.Equal(expected.Select(token => (token.Id, token.Value)), tokens.Select(token => (token.Id, token.Value)));
        // The library gives the bytes of a character beyond U+FFFF the first of its two units, and we the character.
        if ((normalized is null || normalized == text) && !text.Any(char.IsSurrogate))
            Assert.Equal(expected.Select(token => token.Offset), tokens.Select(token => token.Offset));
        Assert.Equal(expected.Select(token => token.Id), tokenizer.Encode(text));
    }
}
