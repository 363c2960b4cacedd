using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using Microsoft.ML;
using Microsoft.ML.Data;

namespace ML.Rlhf.Tests.Data;

/// <summary>Text of every kind comes out of a file as it went in, whatever ends the lines, has tokens, and can be learned from.</summary>
public sealed class UnicodeRowsTests : IDisposable
{
    private const string Plain = "the cat sat on the mat.";
    private static readonly TextTokenizer s_bpe = ByteLevelBpeTrainer.Train([Plain, Plain], 270);

    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;
    private readonly MLContext _ml = new(seed: 1);

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    public static TheoryData<string, string> Texts { get; } = new()
    {
        { "nothing", "" },
        { "one character", "x" },
        { "one character beyond U+FFFF", "𐍈" },
        { "one space", " " },
        { "right to left", "שלום \u202Eabc\u202C مرحبا بالعالم" },
        { "emoji with joiners", "👩‍🚀 🏳️‍🌈 👨‍👩‍👧‍👦 🇸🇪 ☝🏽" },
        { "combining marks", "e\u0301 o\u0308\u0323 Z\u0351\u036B\u0343\u036A\u0302 \u0301" },
        { "composed and decomposed", "é e\u0301 ﬁ Å \u212B 각 \u1100\u1161\u11A8" },
        { "line separators", "a\u2028b\u2029c\u0085d\u000Be\u000Cf" },
        { "line ends", "a\r\nb\rc\nd\n\n" },
        { "NUL and controls", "a\0b\0\0\u0001\u001F\u007F\u009F" },
        { "byte order mark inside", "a\uFEFFb" },
        { "noncharacters and U+FFFD", "\uFFFD \uFFFE \uFFFF \U0010FFFF" },
        { "no spaces", "日本語のテキストไทยไม่มีช่องว่าง" },
        { "quotes and slashes", "\"\\\" \\u0041 / \\n {\"text\": [1]} <|endoftext|>" },
    };

    [Theory, MemberData(nameof(Texts))]
    public void It_is_read_as_it_was_written(string name, string text)
    {
        _ = name;
        foreach (string end in new[] { "\n", "\r\n", "\r" })
        {
            foreach (bool escaped in new[] { false, true })
            {
                foreach (bool marked in new[] { false, true })
                {
                    var data = _ml.Data.LoadFromJsonLines<Document>(Write([text, Plain, "", text], end, escaped, marked));

                    Assert.Equal([text, Plain, "", text], data.GetColumn<string>("Text"));
                }
            }
        }
    }

    [Theory, MemberData(nameof(Texts))]
    public void It_has_tokens_that_stand_for_it(string name, string text)
    {
        _ = name;
        var data = _ml.Data.LoadFromJsonLines<Document>(Write([text, Plain]));

        foreach (var tokenizer in new[] { s_bpe, _ml.Rlhf().Tokenizers.Bytes(), _ml.Rlhf().Tokenizers.TrainCharacters(data) })
        {
            var documents = Tokenization.Documents(data, "Text", tokenizer, () => { });

            Assert.Equal(tokenizer.EndOfText, documents[0][^1]);
            Assert.Equal(text, tokenizer.Decode(documents[0]));
            Assert.Equal(Plain, tokenizer.Decode(documents[1]));
        }
    }

    [Theory, MemberData(nameof(Texts))]
    public void A_GPT_learns_from_it(string name, string text)
    {
        _ = name;
        var progress = new ProgressRecords();

        using var model = _ml.Rlhf().Trainers.Gpt(new GptOptions
        {
            Architecture = Tiny.Architecture,
            Tokenizer = s_bpe,
            Steps = 1,
            BatchSize = 2,
            Progress = progress,
            Sampling = new SamplingOptions { MaxNewTokens = 2, TruncatePrompts = true },
        }).Fit(_ml.Data.LoadFromJsonLines<Document>(Write([text, Plain])));

        Assert.InRange(Assert.Single(progress).Loss, 1, 10);
        Assert.NotNull(model.Generate(text));
    }

    [Theory, MemberData(nameof(Texts))]
    public void An_encoder_with_a_WordPiece_tokenizer_learns_from_it(string name, string text)
    {
        _ = name;
        File.WriteAllLines(Path.Combine(_folder, "vocab.txt"),
            ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "mat", ".", "a", "##b", "e", "日", "語", "שלום", "x"]);
        var tokenizer = _ml.Rlhf().Tokenizers.FromPretrained(_folder);
        var data = _ml.Data.LoadFromJsonLines<Document>(Write([text, Plain]));
        var progress = new ProgressRecords();

        using var model = _ml.Rlhf().Trainers.MaskedLanguageModel(new MaskedLanguageModelOptions
        {
            Architecture = Tiny.EncoderArchitecture,
            Tokenizer = tokenizer,
            Steps = 1,
            BatchSize = 4,
            Progress = progress,
        }).Fit(data);

        Assert.InRange(Assert.Single(progress).Loss, 1, 10);
        Assert.All(model.Transform(data).GetColumn<float[]>("Features"), 
            features => Assert.All(features, feature => Assert.True(float.IsFinite(feature))));
    }

    [Theory]
    [InlineData("""{"text": "a\ud800b"}""")]
    [InlineData("""{"text": "a\udc00"}""")]
    [InlineData("""{"text": "\udc00\ud800"}""")]
    [InlineData("""{"a\ud800": 1, "text": "b"}""")]
    public void Half_of_a_surrogate_pair_in_a_file_is_a_bad_line(string line)
    {
        string path = Path.Combine(_folder, "rows.jsonl");
        File.WriteAllText(path, line);

        var error = Assert.Throws<FormatException>(() => _ml.Data.LoadFromJsonLines<Document>(path).GetColumn<string>("Text").Count());

        Assert.StartsWith($"{path}(1): the line has half of a surrogate pair (\\uD800 to \\uDFFF), which is no text. Expected",
            error.Message);
    }

    [Theory]
    [InlineData(new byte[] { 0xC3 })]                       // cut off
    [InlineData(new byte[] { 0xED, 0xA0, 0x80 })]           // half of a surrogate pair
    [InlineData(new byte[] { 0xC0, 0xAF })]                 // longer than it needs to be
    [InlineData(new byte[] { 0xF4, 0x90, 0x80, 0x80 })]     // beyond U+10FFFF
    [InlineData(new byte[] { 0x80 })]                       // a continuation of nothing
    public void Bytes_that_are_no_UTF_8_are_a_bad_line(byte[] bytes)
    {
        string path = Path.Combine(_folder, "rows.jsonl");
        File.WriteAllBytes(path, [.. "{\"text\": \"fine\"}\n{\"text\": \""u8, .. bytes, .. "\"}\n"u8]);

        var error = Assert.Throws<FormatException>(() => _ml.Data.LoadFromJsonLines<Document>(path).GetColumn<string>("Text").Count());

        Assert.StartsWith($"{path}(2): the line is not UTF-8 text.", error.Message);
    }

    [Theory] // as code units: a lone surrogate does not survive an attribute
    [InlineData(new[] { 'a', '\uD800', 'b' }, "a\uFFFDb")]
    [InlineData(new[] { '\uDC00' }, "\uFFFD")]
    [InlineData(new[] { '\uD83D', '\uDE00', '\uD83D' }, "😀\uFFFD")]
    public void Half_of_a_surrogate_pair_in_memory_is_read_as_the_replacement_character(char[] units, string expected)
    {
        string text = new(units);
        var data = _ml.Data.LoadFromEnumerable([new Document { Text = text }, new Document { Text = Plain }]);
        var characters = _ml.Rlhf().Tokenizers.TrainCharacters(data);

        foreach (var tokenizer in new[] { s_bpe, _ml.Rlhf().Tokenizers.Bytes(), characters })
            Assert.Equal(expected, tokenizer.Decode(Tokenization.Documents(data, "Text", tokenizer, () => { })[0]));
        _ml.Rlhf().Trainers.Gpt(new GptOptions { Architecture = Tiny.Architecture, Tokenizer = s_bpe, Steps = 1 }).Fit(data).Dispose();
    }

    [Fact]
    public void Line_ends_of_all_kinds_are_counted_as_an_editor_counts_them()
    {
        string path = Path.Combine(_folder, "rows.jsonl");
        foreach (var (end, last) in new[]
        {
            ("\n", ""), ("\r\n", ""), ("\r", ""), ("\n", "\n"), ("\r\n", "\r\n"), ("\r", "\r"), ("\n", "\n\n\n"),
        })
        {
            File.WriteAllText(path, string.Join(end, "{\"text\":\"1\"}", "", "  ", "{\"text\":\"2\"}", "{\"test\":\"3\"}") + last);
            var data = _ml.Data.LoadFromJsonLines<Document>(path);

            var error = Assert.Throws<FormatException>(() => data.GetColumn<string>("Text").Count());

            Assert.StartsWith($"{path}(5): field 'Text' is missing.", error.Message);
            Assert.Equal(["1", "2"], data.GetColumn<string>("Text").Take(2));
        }
    }

    [Theory]
    [InlineData("\r\n")]
    [InlineData("\r")]
    [InlineData("\n")]
    public void Line_ends_count_once_wherever_the_reader_stops_in_between(string end)
    {
        string[] lines = ["{\"a\":1}", "", "x", "{}", "\uFEFF{}"];
        byte[] bytes = Encoding.UTF8.GetBytes(string.Concat(lines.Select(line => line + end)));
        foreach (int chunk in new[] { 1, 2, 3, 5, 100 })
        {
            using var reader = new LineReader(new DripStream(bytes, chunk), maxLength: 100, () => { });
            var read = new List<string>();
            while (reader.Read())
            {
                read.Add(Encoding.UTF8.GetString(reader.Line));
                Assert.Equal(read.Count, reader.Number);
            }

            Assert.Equal(["{\"a\":1}", "", "x", "{}", "{}"], read);
            Assert.Equal(bytes.Length, reader.BytesRead);
        }
    }

    private string Write(string[] texts, string end = "\n", bool escaped = false, bool marked = false)
    {
        var options = new JsonSerializerOptions
        {
            Encoder = escaped ? JavaScriptEncoder.Default : JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
        };
        string path = Path.Combine(_folder, $"rows-{Guid.NewGuid():N}.jsonl");
        File.WriteAllText(
            path, string.Join(end, texts.Select(text => JsonSerializer.Serialize(new { text }, options))), new UTF8Encoding(marked));
        return path;
    }

    /// <summary>Gives a few bytes at a time, as a slow disk or a network may.</summary>
    private sealed class DripStream(byte[] bytes, int chunk) : MemoryStream(bytes)
    {
        public override int Read(Span<byte> buffer) => base.Read(buffer[..Math.Min(chunk, buffer.Length)]);
    }
}
