using System.Text;

namespace ML.Rlhf.Tests.Tokenizers;

public class TokenizerPersistenceTests
{
    public static TheoryData<TokenizerKind, bool> Tokenizers => new()
    {
        { TokenizerKind.ByteLevelBpe, false }, { TokenizerKind.Bytes, false },
        { TokenizerKind.Characters, false }, { TokenizerKind.Characters, true },
    };

    [Theory]
    [MemberData(nameof(Tokenizers))]
    public void A_saved_tokenizer_comes_back_equal(TokenizerKind kind, bool replaceUnknown)
    {
        var original = Make(kind, replaceUnknown);
        var loaded = Load(Save(original));

        Assert.Equal(original, loaded);
        Assert.Equal(original.GetHashCode(), loaded.GetHashCode());
        Assert.Equal(original.Encode("fog, ships"), loaded.Encode("fog, ships"));
        Assert.Equal(Save(original), Save(loaded));
    }

    [Fact]
    public void The_document_is_readable()
    {
        string json = Save(TokenizerFixtures.Golden);
        Assert.StartsWith("""{"format":"ML.Rlhf tokenizer","version":2,"kind":"ByteLevelBpe","endOfText":"<|endoftext|>",""", json);
        Assert.Contains("\"Ġt he\"", json);
    }

    [Fact]
    public void Saving_leaves_the_stream_open()
    {
        using var stream = new MemoryStream();
        TokenizerFixtures.Bytes.Save(stream);
        Assert.Equal(stream.Length, stream.Position);
        stream.Position = 0;
        TextTokenizer.Load(stream);
        Assert.True(stream.CanRead);
    }

    [Fact]
    public void Tokenizers_differ_in_any_part()
    {
        TextTokenizer[] all =
        [
            TokenizerFixtures.Bytes, TokenizerFixtures.Golden, TokenizerFixtures.Characters("abc"), TokenizerFixtures.Characters("abd"),
            TokenizerFixtures.Characters("abc\ufffd"), TokenizerFixtures.Characters("abc", replaceUnknown: true),
            TokenizerFixtures.Train(["x"], 300), TokenizerFixtures.Train(["abab"], 300), TokenizerFixtures.Train(["x"], 300, ["<|end|>"]),
            TokenizerFixtures.Train(["x"], 300, ["<|1|>", "<|2|>"]), TokenizerFixtures.Train(["x"], 300, ["<|2|>", "<|1|>"]),
        ];
        for (int i = 0; i < all.Length; i++)
        {
            for (int j = 0; j < all.Length; j++)
                Assert.Equal(i == j, all[i].Equals(all[j]));
        }
        Assert.False(all[0].Equals(null));
    }

    [Fact]
    public void A_newer_format_names_the_package_to_update()
    {
        string newer = Save(TokenizerFixtures.Bytes).Replace("\"version\":2", "\"version\":3").Replace("\"Bytes\"", "\"Unheard\"");
        var error = Assert.Throws<FormatException>(() => Load(newer));
        Assert.Contains("format version 3", error.Message);
        Assert.Contains("Update the package ML.Rlhf", error.Message);
    }

    [Theory]
    [InlineData("", "not a saved tokenizer")]
    [InlineData("[]", "not a saved tokenizer")]
    [InlineData("null", "not a saved tokenizer")]
    [InlineData("""{"format":"other","version":1}""", "not a saved tokenizer")]
    [InlineData("""{"format":"ML.Rlhf tokenizer","version":"1"}""", "not a saved tokenizer")]
    [InlineData("""{"format":"ML.Rlhf tokenizer","version":1,"kind":"Syllables"}""", "damaged")]
    [InlineData("""{"format":"ML.Rlhf tokenizer","version":1,"kind":7}""", "there is no kind 7")]
    [InlineData("""{"format":"ML.Rlhf tokenizer","version":1,"kind":"Bytes"}""", "a part of it is missing")]
    public void What_is_not_a_tokenizer_is_refused(string json, string message) =>
        Assert.Contains(message, Assert.Throws<FormatException>(() => Load(json)).Message);

    [Theory]
    [InlineData("Bytes", "e", """{"e":0}""", """["e",null]""", "byte 0 ('Ā') is not")]
    [InlineData("Bytes", "e", """{"e":0}""", """["e","a","a"]""", "token 'a' has two ids, 1 and 2")]
    [InlineData("Bytes", "e", """{"e":1}""", """["e"]""", "special token 'e' with id 1")]
    [InlineData("Bytes", "e", """{}""", """["e"]""", "the end-of-text token 'e' is not")]
    [InlineData("Bytes", "e", """{"e":0}""", """["e","a"]""", "byte 0 ('Ā') is not")]
    [InlineData("Characters", "e", """{"e":0}""", """["e","a"]""", "one special token, with the last id")]
    [InlineData("Characters", "e", """{"e":1}""", """["ab","e"]""", "token 'ab' is not one character")]
    public void Parts_that_do_not_fit_are_refused(string kind, string endOfText, string specialTokens, string vocabulary, string message)
    {
        string json = $$"""
            {"format":"ML.Rlhf tokenizer","version":1,"kind":"{{kind}}","endOfText":"{{endOfText}}","specialTokens":{{specialTokens}},
            "vocabulary":{{vocabulary}},"merges":[]}
            """;
        Assert.Contains(message, Assert.Throws<FormatException>(() => Load(json)).Message);
    }

    [Theory]
    [InlineData("\"Ġ t\"", "\"Ġ ☃\"", "merge 'Ġ ☃' does not join two tokens")]
    [InlineData("\"Ġ t\"", "\"Ġt\"", "merge 'Ġt' does not join two tokens")]
    [InlineData("\"Ġthe\",", "\"☃\",", "token '☃' is not written in the byte alphabet")]
    [InlineData("\"<|pad|>\":1", "\"<|pad|>\":2", "special token '<|pad|>' with id 2")]
    public void A_damaged_vocabulary_is_refused(string part, string damaged, string message)
    {
        string json = Save(TokenizerFixtures.Golden);
        Assert.Contains(part, json);
        Assert.Contains(message, Assert.Throws<FormatException>(() => Load(json.Replace(part, damaged))).Message);
    }

    [Fact]
    public void A_cut_off_document_is_refused()
    {
        string json = Save(TokenizerFixtures.Golden);
        foreach (int length in new[] { 1, 20, 100, json.Length / 2, json.Length - 1 })
            Assert.Contains("damaged", Assert.Throws<FormatException>(() => Load(json[..length])).Message);
    }

    private static TextTokenizer Make(TokenizerKind kind, bool replaceUnknown) => kind switch
    {
        TokenizerKind.Bytes => TokenizerFixtures.Bytes,
        TokenizerKind.Characters => TokenizerFixtures.Characters(TokenizerFixtures.Corpus, replaceUnknown),
        _ => TokenizerFixtures.Golden,
    };

    private static string Save(TextTokenizer tokenizer)
    {
        using var stream = new MemoryStream();
        tokenizer.Save(stream);
        return Encoding.UTF8.GetString(stream.ToArray());
    }

    private static TextTokenizer Load(string json) => TextTokenizer.Load(new MemoryStream(Encoding.UTF8.GetBytes(json)));
}
