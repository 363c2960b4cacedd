using System.Text.Json.Nodes;
using Microsoft.ML;

namespace ML.Rlhf.Tests.Tokenizers;

public sealed class PretrainedTokenizerTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("tokenizer").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void Tokenizer_json_gives_the_same_tokenizer_as_vocabulary_and_merges() =>
        Assert.Equal(TokenizerFixtures.Golden, Read(TokenizerFixtures.PathOf("bpe")));

    [Fact]
    public void Vocabulary_and_merges_are_read()
    {
        Copy("bpe/vocab.json");
        Copy("bpe/merges.txt");
        TextTokenizer tokenizer = Read(_folder);
        Assert.Equal(TokenizerFixtures.Golden.Encode(TokenizerFixtures.Corpus), tokenizer.Encode(TokenizerFixtures.Corpus));
        Assert.Equal(["<|endoftext|>"], tokenizer.SpecialTokens.Keys); // the two files do not say that <|pad|> is special

        Write("added_tokens.json", """{"<|im_start|>": 512}""");
        Assert.Equal([512, .. tokenizer.Encode("user")], Read(_folder).Encode("<|im_start|>user", recognizeSpecialTokens: true));
    }

    [Fact]
    public void Conversations_with_added_tokens_encode_as_in_the_reference_library()
    {
        TextTokenizer tokenizer = Read(TokenizerFixtures.PathOf("chat"));
        Assert.Equal((514, 0), (tokenizer.VocabularySize, tokenizer.EndOfText));
        foreach (var golden in TokenizerFixtures.Json("chat/expected.json").GetProperty("cases").EnumerateArray())
            Assert.Equal(golden.GetProperty("input_ids").Ids(),
                tokenizer.Encode(golden.GetProperty("rendered").GetString(), recognizeSpecialTokens: true));
    }

    [Theory]
    [InlineData("tokenizer_config.json", """{"eos_token": "<|im_end|>"}""")]
    [InlineData("tokenizer_config.json", """{"eos_token": {"content": "<|im_end|>", "lstrip": false}}""")]
    [InlineData("special_tokens_map.json", """{"eos_token": "<|im_end|>"}""")]
    [InlineData("generation_config.json", """{"eos_token_id": [513, 0]}""")]
    [InlineData("config.json", """{"eos_token_id": 513}""")]
    public void The_folder_names_the_end_of_text(string file, string json)
    {
        Copy("chat/tokenizer.json");
        Write(file, json);
        Assert.Equal(513, Read(_folder).EndOfText);
        Assert.Equal(1, Read(_folder, "<|pad|>").EndOfText); // unless the caller does
    }

    [Fact]
    public void Padding_adds_ids_that_stand_for_nothing()
    {
        TextTokenizer padded = TokenizerFixtures.Golden.PaddedTo(600);
        Assert.Equal(600, padded.VocabularySize);
        Assert.Equal("ab", padded.Decode([.. padded.Encode("a"), 599, .. padded.Encode("b")]));
        Assert.Equal(TokenizerFixtures.Golden.Encode("fog, ships"), padded.Encode("fog, ships"));
        Assert.NotEqual(TokenizerFixtures.Golden, padded);
        Assert.Same(padded, padded.PaddedTo(600));
        Assert.Throws<ArgumentOutOfRangeException>(() => padded.PaddedTo(599));

        using var stream = new MemoryStream();
        padded.Save(stream);
        stream.Position = 0;
        Assert.Equal(padded, TextTokenizer.Load(stream));
    }

    [Fact]
    public void Words_of_BERT_are_read_from_their_list()
    {
        TextTokenizer json = Read(TokenizerFixtures.PathOf("pretrained/bert"));
        Write("vocab.txt", string.Join('\n', json.Content.Vocabulary) + "\n");
        Assert.Equal(json, Read(_folder));
        Write("tokenizer_config.json", """{"do_lower_case": false}""");
        Assert.NotEqual(json, Read(_folder));
    }

    [Fact]
    public void A_tokenizer_made_here_is_saved_for_the_tokenizers_library()
    {
        TokenizerFixtures.Golden.SavePretrained(_folder);
        Assert.Equal(TokenizerFixtures.Golden, Read(_folder));
        var (written, golden) = (Json(_folder), Json(TokenizerFixtures.PathOf("bpe")));
        foreach (string part in new[] { "added_tokens", "normalizer", "pre_tokenizer", "decoder" })
            Assert.True(JsonNode.DeepEquals(golden[part], written[part]), part);
        Assert.True(JsonNode.DeepEquals(golden["model"]!["vocab"], written["model"]!["vocab"]));
        Assert.True(JsonNode.DeepEquals(golden["model"]!["merges"], written["model"]!["merges"]));

        TokenizerFixtures.Bytes.SavePretrained(_folder);
        Assert.Equal(TokenizerFixtures.Bytes.Encode("é🙂 a"), Read(_folder).Encode("é🙂 a"));
        Assert.Throws<NotSupportedException>(() => TokenizerFixtures.Characters("abc").SavePretrained(_folder));

        static JsonNode Json(string folder) => JsonNode.Parse(File.ReadAllText(Path.Combine(folder, "tokenizer.json")))!;
    }

    private static TextTokenizer Read(string folder, string? endOfText = null) =>
        new MLContext().Rlhf().Tokenizers.FromPretrained(folder, endOfText);

    private void Copy(string name) => File.Copy(TokenizerFixtures.PathOf(name), Path.Combine(_folder, Path.GetFileName(name)));

    private void Write(string name, string text) => File.WriteAllText(Path.Combine(_folder, name), text);
}
