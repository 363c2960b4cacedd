using System.Diagnostics;
using System.Text.Json.Nodes;
using Microsoft.ML;

namespace ML.Rlhf.Tests.Tokenizers;

/// <summary>Tokenizer files that are damaged, made by an enemy, or made for another library.</summary>
public sealed class DamagedTokenizerTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("tokenizer").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [InlineData("bpe", "model.type", "\"Unigram\"", "model is Unigram, which is not supported")]
    [InlineData("bpe", "model.dropout", "0.1", "model is dropout")]
    [InlineData("bpe", "model.end_of_word_suffix", "\"</w>\"", "model is end_of_word_suffix '</w>'")]
    [InlineData("bpe", "model.byte_fallback", "true", "byte_fallback with byte-level tokens")]
    [InlineData("bpe", "normalizer", """{"type": "NFKC"}""", "normalizer is NFKC")]
    [InlineData("bpe", "normalizer", """{"type": "Lowercase"}""", "normalizer is Lowercase")]
    [InlineData("bpe", "pre_tokenizer", """{"type": "Whitespace"}""", "pre_tokenizer is Whitespace")]
    [InlineData("bpe", "pre_tokenizer", """{"type": "Sequence", "pretokenizers": [{"type": "Punctuation"}, {"type": "ByteLevel"}]}""",
        "pre_tokenizer is Punctuation")]
    [InlineData("bpe", "pre_tokenizer", """{"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}, {"type": "Digits"}]}""",
        "pre_tokenizer is Digits after ByteLevel")]
    [InlineData("bpe", "decoder", """{"type": "BPEDecoder"}""", "decoder is BPEDecoder")]
    [InlineData("bpe", "post_processor", """{"type": "Surprise"}""", "post_processor is Surprise")]
    [InlineData("pretrained/llama3", "pre_tokenizer.pretokenizers[0].behavior", "\"MergedWithNext\"", "Split with behavior MergedWithNext")]
    [InlineData("pretrained/llama3", "pre_tokenizer.pretokenizers[0].pattern.Regex", "\"\\\\w+\"", "means something else in .NET")]
    [InlineData("pretrained/llama2", "normalizer.normalizers[0].prepend", "\"_\"", "normalizer is Prepend")]
    [InlineData("pretrained/llama2", "normalizer", """{"type": "Prepend", "prepend": "▁"}""", "another way to treat spaces")]
    [InlineData("pretrained/llama2", "decoder", """{"type": "Fuse"}""", "decoder is one that leaves ▁ as it is")]
    [InlineData("pretrained/llama2", "decoder.decoders[3].stop", "1", "decoder is Strip")]
    [InlineData("pretrained/mistral", "pre_tokenizer.prepend_scheme", "\"last\"", "prepend_scheme last")]
    [InlineData("pretrained/bert", "normalizer", "null", "normalizer is none")]
    [InlineData("pretrained/bert", "pre_tokenizer.type", "\"Whitespace\"", "pre_tokenizer is Whitespace")]
    public void A_part_that_would_give_other_ids_is_refused_by_name(string tokenizer, string path, string json, string message) =>
        Assert.Contains(message, Refuse(tokenizer, path, json));

    [Theory]
    [InlineData("model.vocab.!", "3", "have the same id 3")]
    [InlineData("model.vocab.!", "900000000", "one has id 900000000: the ids have too many holes")]
    [InlineData("model.vocab.!", "-1", "should be a whole number from 0, and is -1")]
    [InlineData("model.vocab.!", "99999999999", "should be a whole number from 0")]
    [InlineData("model.vocab.!", "\"2\"", "should be a whole number from 0, and is \"2\"")]
    [InlineData("model.vocab", "[]", "\"vocab\" should be an object")]
    [InlineData("model.vocab", "null", "no \"vocab\"")]
    [InlineData("model.merges[0]", "[\"Ġ\", \"☃\"]", "merge 'Ġ ☃' does not join two tokens")]
    [InlineData("model.merges[0]", "[\"Ġ\"]", "no pair of tokens")]
    [InlineData("model.merges[0]", "7", "no pair of tokens")]
    [InlineData("model.merges[1]", "[\"h\", \"e\"]", "merge 'h e' is there twice")]
    [InlineData("model.merges", "{}", "\"merges\" should be an array")]
    [InlineData("added_tokens[0].id", "5", "Token '<|endoftext|>' has two ids, 0 and 5")]
    [InlineData("added_tokens[0].content", "\"\"", "have the same id 0")]
    [InlineData("added_tokens[0].content", "null", "no \"content\"")]
    [InlineData("added_tokens[0].special", "1", "\"special\" should be true or false")]
    [InlineData("model", "null", "no \"model\"")]
    [InlineData("pre_tokenizer.type", "null", "A part of \"pre_tokenizer\" has no \"type\"")]
    public void A_damaged_part_is_named(string path, string json, string message) => Assert.Contains(message, Refuse("bpe", path, json));

    [Theory]
    [InlineData("", "is damaged, or is no JSON")]
    [InlineData("[]", "holds no JSON object")]
    [InlineData("""{"model": {"vocab": {"a": 1, "a": 2}}}""", "is damaged, or is no JSON")]                    // one name twice
    [InlineData("""{"model": {"type": "BPE", "vocab": {"\ud800": 1}}}""", "is damaged, or is no JSON")]
    [InlineData("""{"model": {"type": "\udc00", "vocab": {}}}""", "not well-formed Unicode")]
    [InlineData("""{"model": {"type": "BPE", "vocab": {}}, "post_processor": {"type": "BertProcessing"}}""",
        "\"cls\" should be a text, and is missing")]
    public void A_file_that_is_something_else_is_refused(string json, string message)
    {
        File.WriteAllText(Path.Combine(_folder, "tokenizer.json"), json);
        Assert.Contains(message, Assert.Throws<FormatException>(() => Read("<|endoftext|>")).Message);
    }

    [Fact]
    public void Deep_nesting_is_refused()
    {
        string nested = string.Concat(Enumerable.Repeat("""{"type":"Sequence","normalizers":[""", 10_000));
        File.WriteAllText(Path.Combine(_folder, "tokenizer.json"), $$"""{"normalizer": {{nested}}""");
        Assert.Contains("damaged", Assert.Throws<FormatException>(() => Read()).Message);
    }

    [Theory]
    [InlineData("tokenizer.json")]
    [InlineData("tokenizer.model")]
    [InlineData("vocab.txt")]
    public void A_file_of_many_gigabytes_is_refused_unread(string name)
    {
        using (FileStream file = File.Create(Path.Combine(_folder, name)))
            file.SetLength(1L << 36); // with no data behind it
        var clock = Stopwatch.StartNew();
        Assert.Contains("68719476736 bytes", Assert.Throws<FormatException>(() => Read()).Message);
        Assert.True(clock.Elapsed < TimeSpan.FromSeconds(5));
    }

    [Fact]
    public void A_cut_off_file_is_refused()
    {
        byte[] json = File.ReadAllBytes(TokenizerFixtures.PathOf("pretrained/llama2/tokenizer.json"));
        byte[] model = File.ReadAllBytes(TokenizerFixtures.PathOf("pretrained/sentencepiece-bpe/tokenizer.model"));
        for (int i = 0; i < 50; i++)
        {
            Write("tokenizer.json", json[..(json.Length * i / 50)]);
            Assert.Throws<FormatException>(() => Read());
        }
        File.Delete(Path.Combine(_folder, "tokenizer.json"));
        for (int i = 0; i < 50; i++)
        {
            Write("tokenizer.model", model[..(model.Length * i / 50)]);
            Assert.Throws<FormatException>(() => Read());
        }
    }

    [Theory]
    [InlineData(1)] // unigram
    [InlineData(4)] // characters
    public void Another_type_of_SentencePiece_model_is_refused(byte type)
    {
        byte[] model = File.ReadAllBytes(TokenizerFixtures.PathOf("pretrained/sentencepiece-bpe/tokenizer.model"));
        // The trainer's field 3 with the value 2, behind the training options that come before it: input files and the model's name.
        int at = model.AsSpan().IndexOf("tokenizer\u0018\u0002"u8) + "tokenizer\u0018"u8.Length;
        Assert.Equal(2, model[at]);
        model[at] = type;
        Write("tokenizer.model", model);
        Assert.Contains($"the type {(type == 1 ? "unigram" : "char")}", Assert.Throws<FormatException>(() => Read()).Message);
    }

    public static TheoryData<string> Files =>
    [
        "bpe/tokenizer.json", "pretrained/qwen2/tokenizer.json", "pretrained/llama2/tokenizer.json", "pretrained/bert/tokenizer.json",
        "pretrained/sentencepiece-bpe/tokenizer.model",
    ];

    [Theory]
    [MemberData(nameof(Files))]
    public void A_changed_file_is_read_or_refused_and_nothing_else(string name) => Fuzz(name, seed: 17, TimeSpan.FromSeconds(0.5));

    [Theory]
    [Trait("Tier", "Slow")]
    [MemberData(nameof(Files))]
    public void A_changed_file_is_read_or_refused_for_a_minute(string name) => Fuzz(name, seed: 18, TimeSpan.FromSeconds(12));

    private void Fuzz(string name, int seed, TimeSpan time)
    {
        byte[] original = File.ReadAllBytes(TokenizerFixtures.PathOf(name));
        var random = new Random(seed);
        var clock = Stopwatch.StartNew();
        int refused = 0;
        for (int round = 0; round < 20 || clock.Elapsed < time; round++)
        {
            byte[] changed = [.. original];
            for (int i = random.Next(1, 6); i > 0; i--)
            {
                int at = random.Next(changed.Length);
                // Half of the changes in the first kilobyte or the last, where a file is more than a list of tokens.
                at = random.Next(4) switch { 0 => at % 1024, 1 => changed.Length - 1 - at % 1024, _ => at };
                changed[at] = random.Next(2) == 0 ? (byte)random.Next(256) : (byte)"{}[]\",:0129-eltrufn\\"[random.Next(20)];
            }
            Write(Path.GetFileName(name), changed);
            try
            {
                TextTokenizer tokenizer = Read("</s>");
                tokenizer.Decode(tokenizer.Encode("The fog, 42 ships 🙂\n", recognizeSpecialTokens: true));
            }
            catch (FormatException)
            {
                refused++;
            }
        }
        Assert.NotEqual(0, refused);
    }

    private string Refuse(string tokenizer, string path, string json)
    {
        JsonNode root = JsonNode.Parse(File.ReadAllText(TokenizerFixtures.PathOf($"{tokenizer}/tokenizer.json")))!;
        JsonNode node = root;
        string[] steps = path.Replace("[", ".[").Split('.');
        foreach (string step in steps[..^1])
            node = step[0] == '[' ? node[int.Parse(step[1..^1])]! : node[step]!;
        if (steps[^1][0] == '[')
            node[int.Parse(steps[^1][1..^1])] = JsonNode.Parse(json);
        else
            node[steps[^1]] = JsonNode.Parse(json);
        File.WriteAllText(Path.Combine(_folder, "tokenizer.json"), root.ToJsonString());
        return Assert.Throws<FormatException>(() => Read(tokenizer.EndsWith("llama3") ? "<|eot_id|>" : null)).Message;
    }

    private TextTokenizer Read(string? endOfText = null) => new MLContext().Rlhf().Tokenizers.FromPretrained(_folder, endOfText);

    private void Write(string name, byte[] content) => File.WriteAllBytes(Path.Combine(_folder, name), content);
}
