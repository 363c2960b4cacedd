using System.IO.Compression;
using System.Text;
using Microsoft.ML;
using Microsoft.ML.Data;

namespace ML.Rlhf.Tests.Data;

/// <summary>Files that are too big, cut off, something else, or not the same any more: errors say what is wrong, and what to do.</summary>
public sealed class HostileFileTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;
    private readonly MLContext _ml = new(seed: 1);

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    // ---- Limits

    [Fact]
    public void A_line_of_ten_megabytes_is_read_and_tokenized()
    {
        string text = string.Concat(Enumerable.Repeat("a word and another, ", 500_000));
        var path = Write($$"""{"text":"{{text}}"}""", """{"text":"short"}""");
        var data = _ml.Data.LoadFromJsonLines<Document>(path);
        var tokenizer = _ml.Rlhf().Tokenizers.TrainByteLevelBpe(data, vocabularySize: 300);

        var documents = Tokenization.Documents(data, "Text", tokenizer, () => { });

        Assert.Equal([text, "short"], data.GetColumn<string>("Text"));
        Assert.Equal(text, tokenizer.Decode(documents[0]));
        Assert.InRange(documents.Length(0), 1_000_000, 5_000_000);
    }

    [Theory]
    [InlineData(BadLine.Fail)]
    [InlineData(BadLine.Skip)]
    public void An_endless_line_is_refused_at_the_limit_and_one_that_is_skipped_takes_no_memory_and_can_be_stopped(BadLine onBadLine)
    {
        using var endless = new EndlessStream(stopAfter: 1L << 28, whenStopped: () => _ml.Cancel());
        var options = new JsonLinesOptions { MaxLineLength = 1 << 20, OnBadLine = onBadLine };
        var data = _ml.Data.CreateJsonLinesLoader<Document>(options).Load(new StreamSource(endless));
        long before = GC.GetAllocatedBytesForCurrentThread();

        var error = Assert.ThrowsAny<Exception>(() => TextColumns.Read(data, ["Text"]).Count());

        if (onBadLine == BadLine.Fail)
        {
            Assert.IsType<FormatException>(error);
            Assert.StartsWith("stream 1(1): the line is longer than 1048576 bytes (JsonLinesOptions.MaxLineLength).", error.Message);
            Assert.InRange(endless.BytesRead, 1 << 20, 4 << 20);
        }
        else
        {
            Assert.IsType<OperationCanceledException>(error);
            Assert.InRange(endless.BytesRead, 1 << 28, (1 << 28) + (4 << 20));
        }
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 16 << 20);
    }

    [Theory]
    [InlineData(64, null)]
    [InlineData(65, "the line is nested more than 64 levels deep (byte 80). Flatten it. Expected a JSON object with a string")]
    [InlineData(100_000, "the line is nested more than 64 levels deep (byte 80). Flatten it. Expected a JSON object with a string")]
    public void Nesting_has_a_limit(int depth, string? problem)
    {
        int inner = depth - 1; // the line's object is the first level
        var path = Write($$"""{"text":"t","x":{{new string('[', inner)}}{{new string(']', inner)}}}""");

        if (problem is null)
            Assert.Equal("t", Assert.Single(Texts(path)));
        else
            Assert.StartsWith($"{path}(1): {problem}", Error(path));
    }

    // ---- Other kinds of files

    [Theory]
    [InlineData("gzip", "is compressed with gzip. Unpack it, and load what comes out.")]
    [InlineData("zip", "is a zip archive. Unpack it, and load what comes out.")]
    [InlineData("UTF-16", "is text in UTF-16 or UTF-32. Convert it to JSON Lines: one JSON object on each line, in UTF-8.")]
    [InlineData("UTF-16 without mark", "is text in UTF-16 or UTF-32. Convert it to JSON Lines: one JSON object on each line, in UTF-8.")]
    [InlineData("UTF-16BE", "is text in UTF-16. Convert it to JSON Lines: one JSON object on each line, in UTF-8.")]
    [InlineData("OpenSSL", "is encrypted by OpenSSL. Decrypt it, and load what comes out.")]
    [InlineData("PGP", "is encrypted by PGP. Decrypt it, and load what comes out.")]
    [InlineData("LFS", "is a pointer of Git LFS, not the data. Fetch the data with 'git lfs pull'.")]
    public void A_file_of_another_kind_is_named_as_what_it_is(string kind, string problem)
    {
        const string Line = "{\"text\":\"t\"}\n";
        var path = Path.Combine(_folder, "a.jsonl");
        File.WriteAllBytes(path, kind switch
        {
            "gzip" => Packed(stream => new GZipStream(stream, CompressionLevel.Fastest)),
            "zip" => Packed(stream => new ZipArchive(stream, ZipArchiveMode.Create).CreateEntry("a.jsonl").Open()),
            "UTF-16" => [.. Encoding.Unicode.Preamble, .. Encoding.Unicode.GetBytes(Line)],
            "UTF-16 without mark" => Encoding.Unicode.GetBytes(Line),
            "UTF-16BE" => [.. Encoding.BigEndianUnicode.Preamble, .. Encoding.BigEndianUnicode.GetBytes(Line)],
            "OpenSSL" => [.. "Salted__"u8, 1, 2, 200],
            "PGP" => [.. "-----BEGIN PGP MESSAGE-----\n\nhQ=\n"u8],
            _ => [.. "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"u8],
        });

        foreach (var onBadLine in Enum.GetValues<BadLine>()) // there are no lines that could be skipped
            Assert.Equal($"{path} {problem}", Error(path, new() { OnBadLine = onBadLine }));

        static byte[] Packed(Func<Stream, Stream> pack)
        {
            var packed = new MemoryStream();
            using (var stream = pack(packed))
                stream.Write(Encoding.UTF8.GetBytes(Line));
            return packed.ToArray();
        }
    }

    [Fact]
    public void Random_bytes_are_no_text()
    {
        var path = Path.Combine(_folder, "a.jsonl");
        var bytes = new byte[10_000];
        new Random(1).NextBytes(bytes);
        File.WriteAllBytes(path, bytes);

        Assert.StartsWith($"{path}(1): the line is not UTF-8 text. Save the file as UTF-8, and unpack or decrypt it", Error(path));
    }

    [Theory]
    [InlineData("[{\"text\":\"a\"},\n{\"text\":\"b\"}]", "the line is not JSON: ")]
    [InlineData("[{\"text\":\"a\"},{\"text\":\"b\"}]", "the line is an array.")]
    [InlineData(" [\n  {\n    \"text\": \"a\"\n  }\n]", "the line is not JSON: ")]
    public void A_JSON_array_is_named(string json, string problem)
    {
        var path = Path.Combine(_folder, "a.json");
        File.WriteAllText(path, json);

        var error = Error(path);

        Assert.StartsWith($"{path}(1): {problem}", error);
        Assert.Contains(" A file that is one JSON array is not JSON Lines: write each of its items on a line of its own, " +
            "for example with \"jq -c '.[]'\". Expected", error);
    }

    // ---- Files that change

    [Fact]
    public void A_file_that_is_gone_in_the_second_pass_is_named()
    {
        var path = Write("""{"text":"t"}""");
        var data = _ml.Data.LoadFromJsonLines<Document>(path);
        Assert.Single(data.GetColumn<string>("Text"));
        File.Delete(path);

        var error = Assert.Throws<FileNotFoundException>(() => TextColumns.Read(data, ["Text"]).Count());

        Assert.Equal($"The file '{path}' is gone. It was read before, but each pass over the data reads its files again, and a trainer " +
            "may make several. Put it back, or hold the data in memory with ml.Data.Cache.", error.Message);
    }

    [Fact]
    public void A_file_that_was_replaced_after_the_first_pass_is_named_with_both_versions()
    {
        var path = Write("""{"text":"t"}""");
        var data = _ml.Data.LoadFromJsonLines<Document>(path);
        File.SetLastWriteTimeUtc(path, new DateTime(2026, 1, 2, 3, 4, 5, DateTimeKind.Utc));
        Assert.Single(data.GetColumn<string>("Text"));
        Assert.Single(data.GetColumn<string>("Text"));
        File.WriteAllText(path, """{"text":"another"}""");
        File.SetLastWriteTimeUtc(path, new DateTime(2026, 1, 2, 3, 4, 6, DateTimeKind.Utc));

        var error = Assert.Throws<IOException>(() => TextColumns.Read(data, ["Text"]).Count());

        Assert.Equal($"The file '{path}' was changed since it was first read: it was 13 bytes, written at 2026-01-02 03:04:05.000 UTC, " +
            "and is 18 bytes, written at 2026-01-02 03:04:06.000 UTC. Each pass over the data reads its files again, and a trainer may " +
            "make several. Load the data anew, and let nothing write to the file meanwhile.", error.Message);
        Assert.Equal("another", Assert.Single(Texts(path)));
    }

    [Fact]
    public void A_trainer_whose_file_changes_between_its_passes_stops()
    {
        var path = Write([.. Enumerable.Repeat("""{"text":"some words to learn, some words"}""", 20)]);
        var data = _ml.Data.LoadFromJsonLines<Document>(path);
        _ml.Log += (_, e) =>
        {
            if (e.RawMessage.Contains("vocabulary", StringComparison.Ordinal)) // the tokenizer is trained: the first pass is over
                File.AppendAllText(path, """{"text":"more"}""");
        };
        var trainer = _ml.Rlhf().Trainers.Gpt(new GptOptions
        {
            Architecture = Tiny.Architecture with { VocabularySize = 260 },
            Steps = 1,
        });

        Assert.Contains("was changed since it was first read", Assert.Throws<IOException>(() => { trainer.Fit(data); }).Message);
    }

    [Fact]
    public void A_file_that_is_cut_off_while_it_is_read_is_named()
    {
        var data = _ml.Data.CreateJsonLinesLoader<Document>().Load(new StreamSource(new ShrunkStream("{\"text\":\"t\"}\n"u8.ToArray())));

        var error = Assert.Throws<IOException>(() => data.GetColumn<string>("Text").Count());

        Assert.Equal("stream 1 ended after 13 bytes, but had 100 when it was opened: it was cut off while it was read. " +
            "Restore it, and load the data anew.", error.Message);
    }

    private string Write(params string[] lines)
    {
        var path = Path.Combine(_folder, "a.jsonl");
        File.WriteAllText(path, string.Join('\n', lines) + "\n");
        return path;
    }

    private IEnumerable<string> Texts(string path, JsonLinesOptions? options = null) =>
        _ml.Data.LoadFromJsonLines<Document>(path, options ?? new()).GetColumn<string>("Text");

    private string Error(string path, JsonLinesOptions? options = null) =>
        Assert.Throws<FormatException>(() => Texts(path, options).Count()).Message;

    private sealed class StreamSource(Stream stream) : IMultiStreamSource
    {
        public int Count => 1;

        public string? GetPathOrNull(int index) => null;

        public Stream Open(int index) => stream;

        public TextReader OpenTextReader(int index) => throw new NotSupportedException();
    }

    /// <summary>Had more bytes when it was opened.</summary>
    private sealed class ShrunkStream(byte[] content) : MemoryStream(content)
    {
        public override long Length => 100;
    }

    /// <summary>Gives the letter x forever, and says so when it gave many.</summary>
    private sealed class EndlessStream(long stopAfter, Action whenStopped) : Stream
    {
        public long BytesRead { get; private set; }

        public override bool CanRead => true;
        public override bool CanSeek => false;
        public override bool CanWrite => false;
        public override long Length => throw new NotSupportedException();
        public override long Position { get => throw new NotSupportedException(); set => throw new NotSupportedException(); }

        public override int Read(Span<byte> buffer)
        {
            buffer.Fill((byte)'x');
            BytesRead += buffer.Length;
            if (BytesRead >= stopAfter)
                whenStopped();
            return buffer.Length;
        }

        public override int Read(byte[] buffer, int offset, int count) => Read(buffer.AsSpan(offset, count));
        public override void Flush() => throw new NotSupportedException();
        public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();
        public override void SetLength(long value) => throw new NotSupportedException();
        public override void Write(byte[] buffer, int offset, int count) => throw new NotSupportedException();
    }
}
