using ML.Rlhf.Torch.Training;

namespace ML.Rlhf.Torch.Tests.Training;

public sealed class TokenSequencesTests : IDisposable
{
    private const int Page = 1 << 20;

    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;

    private string FileName => Path.Combine(_folder, "new", "tokens");

    public void Dispose() => Directory.Delete(_folder, recursive: true);

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
    [InlineData(50_000, false)]
    [InlineData(150_000, false)]
    [InlineData(50_000, true)]
    [InlineData(150_000, true)]
    public void Sequences_and_windows_cross_pages(int vocabulary, bool inFile)
    {
        using var file = inFile ? new TokenFile(FileName) : null;
        var sequences = new TokenSequences(file: file);
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
    public void A_larger_id_moves_what_a_file_holds_already_to_four_bytes_a_token()
    {
        using var file = new TokenFile(FileName);
        var sequences = new TokenSequences(file: file);
        int[] narrow = [.. Enumerable.Range(0, Page + 100).Select(i => i % 65_536)];
        sequences.Add(narrow);
        Assert.Equal(7, sequences[0][7 + 2 * 65_536]); // mapped, before more is written
        sequences.Add(70_000, 1);

        Assert.Equal(narrow, sequences[0].ToArray());
        Assert.Equal([70_000, 1], sequences[1].ToArray());
    }

    [Fact]
    public void Tokens_in_a_file_take_no_memory_but_a_page_and_the_file_goes_with_the_run()
    {
        const int Pages = 64; // 128 MB of tokens
        int[] page = [.. Enumerable.Range(0, Page).Select(i => i % 65_536)];
        long before = GC.GetAllocatedBytesForCurrentThread();
        using (var file = new TokenFile(FileName))
        {
            var sequences = new TokenSequences(file: file);
            for (int i = 0; i < Pages; i++)
                sequences.Add(page);
            var window = new long[64];
            sequences.CopyTo((Pages - 1) * Page - 32, window.AsSpan());

            Assert.Equal([.. Enumerable.Range(65_504, 32).Select(i => (long)i), .. Enumerable.Range(0, 32).Select(i => (long)i)], window);
            Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 2 * Page, 5 * Page); // the first page doubles as it grows
            Assert.InRange(new FileInfo(FileName).Length, 2L * (Pages - 1) * Page, 2L * Pages * Page);
        }
        Assert.False(File.Exists(FileName));
    }

    [Fact]
    public void A_file_that_a_killed_run_left_is_overwritten_and_no_other()
    {
        string left = Path.Combine(_folder, "left"), other = Path.Combine(_folder, "novel.txt");
        using (var file = new TokenFile(FileName))
        {
            new TokenSequences(file: file).Add(new int[2 * Page]);
            var error = Assert.Throws<IOException>(() => new TokenFile(FileName));
            Assert.StartsWith($"TokenFile '{FileName}' cannot be opened: ", error.Message);
            Assert.EndsWith(". Name a file in a folder that can be written, and another one for each run at the same time.", error.Message);
            File.WriteAllBytes(left, [.. "ML.Rlhf tokens 1"u8, 1, 2, 3]);
        }
        File.WriteAllText(other, "Call me Ishmael. Some years ago");

        using (var file = new TokenFile(left))
        {
            var sequences = new TokenSequences(file: file);
            sequences.Add([.. Enumerable.Repeat(3, 2 * Page)]);
            Assert.Equal(3, sequences[0][0]);
        }
        Assert.Equal($"TokenFile '{other}' is no file of tokens, and is not overwritten. Name one that does not exist.",
            Assert.Throws<IOException>(() => new TokenFile(other)).Message);
        Assert.Equal("Call me Ishmael. Some years ago", File.ReadAllText(other));
        Assert.StartsWith($"TokenFile '{_folder}' cannot be opened: ", Assert.Throws<IOException>(() => new TokenFile(_folder)).Message);
    }

    [Fact]
    public void A_full_disk_is_an_error_that_says_what_to_do()
    {
        Assert.SkipUnless(File.Exists("/dev/full"), "There is no device that is always full.");

        var error = Assert.Throws<IOException>(() => new TokenFile("/dev/full"));

        Assert.StartsWith("The tokens of the corpus could not be written to TokenFile '/dev/full': ", error.Message);
        Assert.True(File.Exists("/dev/full")); // what was there is not deleted
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
