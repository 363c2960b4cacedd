using System.Text.Json;
using Microsoft.ML;

namespace ML.Rlhf.Tests.Tokenizers;

/// <summary>Tokenizers in the shapes of well-known models, against the numbers of the library that those models were made with.</summary>
public class ReferenceTokenizerTests
{
    public static TheoryData<string> Shapes =>
        ["llama3", "qwen2", "digits", "prefix-space", "llama2", "mistral", "metaspace", "gemma", "bert", "bert-cased"];

    [Theory]
    [MemberData(nameof(Shapes))]
    public void Ids_are_those_of_the_reference_library(string shape)
    {
        TextTokenizer tokenizer = Read(shape);
        foreach (var golden in Cases(shape))
        {
            string text = golden.GetProperty("text").GetString()!;
            Check(text, golden.GetProperty("ids").Ids(), tokenizer.Encode(text, recognizeSpecialTokens: true));
            Check(text, golden.GetProperty("text_only_ids").Ids(), tokenizer.Encode(text));
        }
    }

    [Theory]
    [MemberData(nameof(Shapes))]
    public void Texts_are_those_of_the_reference_library(string shape)
    {
        TextTokenizer tokenizer = Read(shape);
        foreach (var golden in Cases(shape).Concat(Cases(shape, "decode_only")))
        {
            int[] ids = golden.GetProperty("ids").Ids();
            if (tokenizer.Kind == TokenizerKind.SentencePieceBpe && golden.GetProperty("decoded").GetString()!.Contains('\ufffd'))
                continue; // the next test
            Check(string.Join(' ', ids), golden.GetProperty("decoded").GetString(), tokenizer.Decode(ids, includeSpecialTokens: true));
            Check(string.Join(' ', ids), golden.GetProperty("decoded_skip_special").GetString(), tokenizer.Decode(ids));

            var streaming = tokenizer.CreateStreamingDecoder();
            Assert.Equal(tokenizer.Decode(ids), string.Concat(ids.Select(streaming.Push)) + streaming.Finish());
        }
    }

    /// <summary>
    /// Here the library writes U+FFFD for every byte of a row that is broken anywhere, good characters included, which cannot be known
    /// before the row ends. <see cref="TextTokenizer.Decode"/> keeps what is good.
    /// </summary>
    [Fact]
    public void Bytes_that_form_no_character_spoil_no_others()
    {
        TextTokenizer tokenizer = Read("llama2");
        int[] ids = [.. tokenizer.Encode("🙂"), .. tokenizer.Encode("🙃").SkipLast(1), .. tokenizer.Encode("a")];
        Assert.Equal("🙂 \ufffd a", tokenizer.Decode(ids));
    }

    [Theory]
    [MemberData(nameof(Shapes))]
    public void Offsets_are_those_of_the_reference_library(string shape)
    {
        TextTokenizer tokenizer = Read(shape);
        foreach (var golden in Cases(shape))
        {
            string text = golden.GetProperty("text").GetString()!;
            if (System.Globalization.StringInfo.ParseCombiningCharacters(text).Length < text.EnumerateRunes().Count())
                continue; // of a letter and marks that a normalizer takes together the library tells only the letter
            var offsets = tokenizer.EncodeToTokens(text, recognizeSpecialTokens: true)
                .Select(token => TokenizerFixtures.InCharacters(text, token.Offset))
                .SelectMany(offset => new[] { offset.Start, offset.End });
            Check(text, golden.GetProperty("offsets").Ids(), offsets);
        }
    }

    [Theory]
    [MemberData(nameof(Shapes))]
    public void The_tokens_around_every_text_are_known(string shape)
    {
        TextTokenizer tokenizer = Read(shape);
        int? after = tokenizer.Content.AfterText is { } token ? tokenizer.SpecialTokens[token] : null;
        foreach (var golden in Cases(shape))
        {
            int[] ids = golden.GetProperty("ids").Ids();
            int[] expected = [.. new[] { tokenizer.BeginningOfText }.OfType<int>(), .. ids, .. new[] { after }.OfType<int>()];
            Assert.Equal(golden.GetProperty("with_template").Ids(), expected);
        }
    }

    [Theory]
    [MemberData(nameof(Shapes))]
    public void What_was_read_can_be_saved_in_both_formats(string shape)
    {
        TextTokenizer tokenizer = Read(shape);
        using var stream = new MemoryStream();
        tokenizer.Save(stream);
        stream.Position = 0;
        Assert.Equal(tokenizer, TextTokenizer.Load(stream));

        string folder = Directory.CreateTempSubdirectory("tokenizer").FullName;
        try
        {
            tokenizer.PaddedTo(1024).SavePretrained(folder);
            Assert.Equal(tokenizer, new MLContext().Rlhf().Tokenizers.FromPretrained(folder));
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    [Fact]
    public void A_SentencePiece_model_gives_the_ids_of_SentencePiece()
    {
        TextTokenizer tokenizer = Read("sentencepiece-bpe");
        Assert.Equal((1, 2), (tokenizer.BeginningOfText, tokenizer.EndOfText));
        foreach (var golden in Cases("sentencepiece-bpe"))
        {
            string text = golden.GetProperty("text").GetString()!;
            int[] ids = golden.GetProperty("ids").Ids();
            Check(text, ids, tokenizer.Encode(text));
            Check(text, golden.GetProperty("decoded").GetString(), tokenizer.Decode(ids));
        }
    }

    /// <summary>The shape llama2 was made from this model, so that only their descriptions differ.</summary>
    [Fact]
    public void A_SentencePiece_model_and_its_tokenizer_json_are_the_same_tokenizer() =>
        Assert.Equal(Read("llama2"), Read("sentencepiece-bpe"));

    private static void Check<T>(string what, T expected, T actual)
    {
        if (expected is System.Collections.IEnumerable and not string
            ? !((IEnumerable<int>)expected).SequenceEqual((IEnumerable<int>)actual!) : !Equals(expected, actual))
            Assert.Fail($"{JsonSerializer.Serialize(what)}: expected {JsonSerializer.Serialize(expected)}, got " +
                JsonSerializer.Serialize(actual));
    }

    private static TextTokenizer Read(string shape) =>
        new MLContext().Rlhf().Tokenizers.FromPretrained(TokenizerFixtures.PathOf(Path.Combine("pretrained", shape)), EndOfText(shape));

    private static string EndOfText(string shape) => shape switch
    {
        "llama3" => "<|eot_id|>",
        "qwen2" or "digits" => "<|endoftext|>",
        "bert" or "bert-cased" => "[SEP]",
        _ => "</s>",
    };

    private static IEnumerable<JsonElement> Cases(string shape, string list = "cases") =>
        TokenizerFixtures.Json($"pretrained/{shape}/expected.json").GetProperty(list).EnumerateArray();
}
