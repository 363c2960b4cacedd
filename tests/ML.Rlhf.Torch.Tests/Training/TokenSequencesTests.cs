using ML.Rlhf.Torch.Training;

namespace ML.Rlhf.Torch.Tests.Training;

public sealed class TokenSequencesTests
{
    private const int Page = 1 << 20;

    [Theory]
    [InlineData(new[] { 0, 65_535, 1 }, 2)]
    [InlineData(new[] { 0, 65_535, 65_536, 1 }, 4)]
    [InlineData(new[] { int.MaxValue, 0, -1, 70_000 }, 4)]
    public void Every_token_comes_back_whatever_its_size(int[] tokens, int bytesPerToken)
    {
        var sequences = new TokenSequences();
        foreach (int token in tokens)
            sequences.Add(token, 7);

        Assert.Equal(tokens, Enumerable.Range(0, sequences.Count).Select(row => sequences[row][0]));
        Assert.All(Enumerable.Range(0, sequences.Count), row => Assert.Equal(7, sequences[row][1]));
        Assert.Equal(bytesPerToken, BytesPerToken(tokens));
    }

    [Theory]
    [InlineData(50_000)]
    [InlineData(150_000)]
    public void Sequences_and_windows_cross_pages(int vocabulary)
    {
        var sequences = new TokenSequences();
        for (int row = 0; row < 3000; row++)
            sequences.Add([.. Enumerable.Range(0, 1000).Select(t => Token(row * 1000 + t))]);

        Assert.Equal((3000, 3_000_000L), (sequences.Count, sequences.TokenCount));
        foreach (int row in new[] { 0, 1, Page / 1000, 2 * Page / 1000, 2999 })
            Assert.Equal(Enumerable.Range(row * 1000, 1000).Select(Token), sequences[row].ToArray());
        foreach (int start in new[] { 0, Page - 1, Page, 2 * Page - 500, 3_000_000 - 1000 })
        {
            var window = new long[1000];
            sequences.CopyTo(start, window.AsSpan());
            Assert.Equal(Enumerable.Range(start, 1000).Select(place => (long)Token(place)), window);
        }
        var all = new int[3_000_000];
        sequences.CopyTo(0, all.AsSpan());
        Assert.Equal(Enumerable.Range(0, 3_000_000).Select(Token), all);

        int Token(int place) => (int)(place * 2654435761L % vocabulary);
    }

    [Fact]
    public void What_lies_beyond_the_end_is_not_read()
    {
        var sequences = new TokenSequences();
        sequences.Add(1, 2, 3);

        Assert.Throws<ArgumentOutOfRangeException>(() => sequences.CopyTo(2, new int[2].AsSpan()));
    }

    [Fact]
    public void A_small_one_takes_little_memory_and_a_large_one_two_bytes_a_token()
    {
        var before = GC.GetAllocatedBytesForCurrentThread();
        new TokenSequences().Add(1, 2, 3);
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 2000);

        Assert.Equal(2, BytesPerToken([1]));
    }

    [Fact]
    public void More_tokens_than_it_can_number_are_an_error_that_says_what_to_do()
    {
        var sequences = new TokenSequences(maximum: 5);
        sequences.Add(1, 2, 3);

        var error = Assert.Throws<InvalidOperationException>(() => sequences.Add(4, 5, 6));
        sequences.Add(4, 5);

        Assert.Equal("The data has more than 5 tokens, which is all that one run can hold. Train on a part of it, such as " +
            "ml.Data.TakeRows(data, n), or on one part after another.", error.Message);
        Assert.Equal((2, 5L), (sequences.Count, sequences.TokenCount));
    }

    /// <summary>What many of these tokens take, to the nearest byte each.</summary>
    private static long BytesPerToken(int[] tokens)
    {
        int[] page = [.. Enumerable.Range(0, Page).Select(i => tokens[i % tokens.Length])];
        var sequences = new TokenSequences();
        sequences.Add(page); // the first page grows
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 4; i++)
            sequences.Add(page);
        return (long)Math.Round((GC.GetAllocatedBytesForCurrentThread() - before) / (4.0 * Page));
    }
}
