using System.Text;

namespace ML.Rlhf.Tests.Tokenizers;

public class TextTokenizerTests
{
    [Fact]
    public void Ids_tokens_offsets_and_texts_are_those_of_the_reference_library()
    {
        foreach (var golden in TokenizerFixtures.Json("encode.json").GetProperty("cases").EnumerateArray())
        {
            string text = golden.GetProperty("text").GetString()!;
            Assert.Equal(golden.GetProperty("utf8").Ids(), Encoding.UTF8.GetBytes(text).Select(value => (int)value));

            int[] ids = golden.GetProperty("ids").Ids();
            Assert.Equal(ids, TokenizerFixtures.Golden.Encode(text, recognizeSpecialTokens: true));
            Assert.Equal(golden.GetProperty("decoded").GetString(), TokenizerFixtures.Golden.Decode(ids, includeSpecialTokens: true));
            Assert.Equal(golden.GetProperty("decoded_skip_special").GetString(), TokenizerFixtures.Golden.Decode(ids));

            var tokens = TokenizerFixtures.Golden.EncodeToTokens(text, recognizeSpecialTokens: true);
            Assert.Equal(ids, tokens.Select(token => token.Id));
            Assert.Equal(golden.GetProperty("tokens").EnumerateArray().Select(token => token.GetString()!),
                tokens.Select(token => token.Value));
            Assert.Equal(golden.GetProperty("offsets").EnumerateArray().Select(offset => (offset[0].GetInt32(), offset[1].GetInt32())),
                tokens.Select(token => TokenizerFixtures.InCharacters(text, token.Offset)));
        }
    }

    [Fact]
    public void Broken_characters_decode_as_in_the_reference_library()
    {
        foreach (var golden in TokenizerFixtures.Json("encode.json").GetProperty("decode_only").EnumerateArray())
            Assert.Equal(golden.GetProperty("decoded").GetString(),
                TokenizerFixtures.Golden.Decode(golden.GetProperty("ids").Ids(), includeSpecialTokens: true));
    }

    [Fact]
    public void A_corpus_encodes_as_in_the_reference_library()
    {
        var golden = TokenizerFixtures.Json("encode.json");
        int[] ids = TokenizerFixtures.Golden.Encode(TokenizerFixtures.Corpus);

        Assert.Equal(golden.GetProperty("corpus_num_tokens").GetInt32(), ids.Length);
        Assert.Equal(golden.GetProperty("corpus_first_200_ids").Ids(), ids[..200]);
        long sum = ids.Select((id, i) => (i + 1L) * id).Sum() % 1_000_003;
        Assert.Equal(golden.GetProperty("corpus_ids_weighted_sum_mod").GetInt64(), sum);
    }

    public static TheoryData<TokenizerKind> Kinds => [TokenizerKind.ByteLevelBpe, TokenizerKind.Bytes, TokenizerKind.Characters];

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Any_text_survives_the_way_to_ids_and_back(TokenizerKind kind)
    {
        var random = new Random(5);
        string[] texts = [.. Enumerable.Range(0, 2_000).Select(_ => TokenizerFixtures.RandomText(random))];
        var tokenizer = Make(kind, string.Concat(texts));
        foreach (string text in texts)
            Assert.Equal(text, tokenizer.Decode(tokenizer.Encode(text)));
    }

    [Fact]
    public void Threads_can_share_a_tokenizer()
    {
        var tokenizer = TokenizerFixtures.Train([TokenizerFixtures.Corpus], 512);
        int[] expected = TokenizerFixtures.Train([TokenizerFixtures.Corpus], 512).Encode(TokenizerFixtures.Corpus);
        Parallel.For(0, 16, _ => Assert.Equal(expected, tokenizer.Encode(TokenizerFixtures.Corpus)));
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Half_a_surrogate_pair_becomes_a_replacement_character(TokenizerKind kind)
    {
        var tokenizer = Make(kind, "ab🙂\ufffd");
        Assert.Equal("a\ufffdb", tokenizer.Decode(tokenizer.Encode("a\ud83db")));
        Assert.Equal("🙂\ufffd\ufffd", tokenizer.Decode(tokenizer.Encode("🙂\ude42\ud83d")));
        Assert.Equal("\ufffd🙂", tokenizer.Decode(tokenizer.Encode("\ud83d🙂")));
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void A_special_token_in_text_is_text_unless_asked_for(TokenizerKind kind)
    {
        var tokenizer = Make(kind, "a<|endoftext|>b");
        int[] asText = tokenizer.Encode("a<|endoftext|>b");
        Assert.DoesNotContain(tokenizer.EndOfText, asText);
        Assert.Equal("a<|endoftext|>b", tokenizer.Decode(asText));

        int[] asToken = tokenizer.Encode("a<|endoftext|><|endoftext|>b", recognizeSpecialTokens: true);
        Assert.Equal([.. tokenizer.Encode("a"), tokenizer.EndOfText, tokenizer.EndOfText, .. tokenizer.Encode("b")], asToken);
        Assert.Equal("ab", tokenizer.Decode(asToken));
    }

    [Fact]
    public void The_longer_of_two_special_tokens_is_recognized()
    {
        var tokenizer = TokenizerFixtures.Train(["text"], 300, ["<|end|>", "<|end|>!"]);
        Assert.Equal([1, 0], tokenizer.Encode("<|end|>!<|end|>", recognizeSpecialTokens: true));
    }

    [Fact]
    public void Bytes_are_their_own_ids()
    {
        Assert.Equal([0x61, 0xC3, 0xA9, 0xF0, 0x9F, 0x99, 0x82], TokenizerFixtures.Bytes.Encode("aé🙂"));
        Assert.Equal((257, 256), (TokenizerFixtures.Bytes.VocabularySize, TokenizerFixtures.Bytes.EndOfText));
    }

    [Fact]
    public void Characters_are_numbered_by_code_point_and_the_end_of_text_comes_last()
    {
        var tokenizer = TokenizerFixtures.Characters("cab🙂\uffff");
        Assert.Equal([2, 0, 1, 4, 3], tokenizer.Encode("cab🙂\uffff"));
        Assert.Equal((6, 5), (tokenizer.VocabularySize, tokenizer.EndOfText));
    }

    [Fact]
    public void An_unknown_character_is_named_with_its_place_and_the_fix()
    {
        var error = Assert.Throws<ArgumentException>(() => TokenizerFixtures.Characters("abc 🙂").Encode("a 🙂 bécab"));
        Assert.Contains("Character 'é' (U+00E9) at position 6, after \"a 🙂 b\"", error.Message);
        Assert.Contains("replaceUnknown: true", error.Message);
    }

    [Fact]
    public void An_unknown_character_can_be_replaced()
    {
        var tokenizer = TokenizerFixtures.Characters("abc", replaceUnknown: true);
        Assert.Equal("a\ufffdc\ufffd", tokenizer.Decode(tokenizer.Encode("aéc🙂")));
        Assert.Equal(5, tokenizer.VocabularySize);
    }

    [Fact]
    public void Ids_can_be_appended_to_a_list()
    {
        var ids = new List<int> { 7 };
        TokenizerFixtures.Bytes.Encode("a", ids);
        TokenizerFixtures.Bytes.Encode("", ids);
        ids.Add(TokenizerFixtures.Bytes.EndOfText);
        Assert.Equal([7, 97, 256], ids);
    }

    [Theory]
    [InlineData(-1)]
    [InlineData(257)]
    public void An_id_of_another_tokenizer_is_refused(int id)
    {
        var error = Assert.Throws<ArgumentOutOfRangeException>(() => TokenizerFixtures.Bytes.Decode([97, id]));
        Assert.Contains("run from 0 to 256", error.Message);
        Assert.Throws<ArgumentOutOfRangeException>(() => TokenizerFixtures.Bytes.CreateStreamingDecoder().Push(id));
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void A_stream_gives_the_same_text_and_never_half_a_character(TokenizerKind kind)
    {
        var random = new Random(11);
        var tokenizer = Make(kind, TokenizerFixtures.Corpus);
        var decoder = tokenizer.CreateStreamingDecoder();
        for (int round = 0; round < 2_000; round++)
        {
            // Random ids: mostly broken characters. Encoded text: characters that span tokens.
            int[] ids = round % 2 == 0 || kind == TokenizerKind.Characters
                ? [.. Enumerable.Range(0, random.Next(20)).Select(_ => random.Next(tokenizer.VocabularySize))]
                : tokenizer.Encode(TokenizerFixtures.RandomText(random));
            string[] parts = [.. ids.Select(decoder.Push), decoder.Finish()];

            Assert.Equal(tokenizer.Decode(ids), string.Concat(parts));
            Assert.All(parts, part => Assert.Equal(part, Encoding.UTF8.GetString(Encoding.UTF8.GetBytes(part))));
        }
    }

    [Fact]
    public void A_stream_holds_a_character_back_until_it_is_complete()
    {
        var decoder = TokenizerFixtures.Bytes.CreateStreamingDecoder();
        Assert.Equal(["a", "", "", "", "🙂"], new[] { 0x61, 0xF0, 0x9F, 0x99, 0x82 }.Select(decoder.Push));
        Assert.Equal("", decoder.Finish());

        decoder.Push(0xF0);
        Assert.Equal("\ufffd", decoder.Finish());
        Assert.Equal("a", decoder.Push(0x61));
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void The_tokenizer_of_Microsoft_ML_Tokenizers_agrees(TokenizerKind kind)
    {
        const string Text = "The keeper's naïve 🙂 fog";
        var tokenizer = Make(kind, Text);
        int[] ids = tokenizer.Encode(Text);
        var inner = tokenizer.Tokenizer;

        Assert.Equal(ids, inner.EncodeToIds(Text));
        Assert.Equal(ids, inner.EncodeToTokens(Text, out _).Select(token => token.Id));
        Assert.Equal(ids.Length, inner.CountTokens(Text));
        Assert.Equal(Text, inner.Decode(ids));

        int end = inner.GetIndexByTokenCount(Text, 5, out _, out int count);
        Assert.InRange(count, 1, 5);
        Assert.Equal(ids[..count], tokenizer.Encode(Text.AsSpan(0, end)));
    }

    [Theory]
    [InlineData(TokenizerKind.Bytes)]
    [InlineData(TokenizerKind.Characters)]
    public void Decoding_into_a_small_buffer_can_be_continued(TokenizerKind kind)
    {
        var tokenizer = Make(kind, "a🙂b");
        int[] rest = tokenizer.Encode("a🙂b🙂");
        var text = new StringBuilder();
        while (rest.Length > 0)
        {
            Span<char> buffer = new char[2];
            tokenizer.Tokenizer.Decode(rest, buffer, out int consumed, out int written);
            Assert.NotEqual(0, consumed);
            text.Append(buffer[..written]);
            rest = rest[consumed..];
        }
        Assert.Equal("a🙂b🙂", text.ToString());
    }

    private static TextTokenizer Make(TokenizerKind kind, string corpus) => kind switch
    {
        TokenizerKind.Bytes => TokenizerFixtures.Bytes,
        TokenizerKind.Characters => TokenizerFixtures.Characters(corpus),
        _ => TokenizerFixtures.Golden,
    };
}
