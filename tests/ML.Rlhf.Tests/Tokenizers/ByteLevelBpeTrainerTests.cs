using System.Text.Json;
using Microsoft.ML;

namespace ML.Rlhf.Tests.Tokenizers;

public class ByteLevelBpeTrainerTests
{
    private static readonly string[] s_goldenSpecialTokens = ["<|endoftext|>", "<|pad|>"];

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(2)]
    public void Merges_are_those_of_the_reference_library(int run)
    {
        var golden = TokenizerFixtures.Json("training.json").GetProperty("runs")[run];
        int size = golden.GetProperty("vocab_size").GetInt32();
        string[] expected = [.. golden.GetProperty("merges").EnumerateArray().Select(TextOf)];

        var trained = TokenizerFixtures.Train([TokenizerFixtures.Corpus], size, s_goldenSpecialTokens);

        Assert.Equal(expected, trained.Content.Merges);
        Assert.Equal(golden.GetProperty("num_merges").GetInt32(), trained.Content.Merges.Length);
        Assert.Equal(golden.GetProperty("learned_vocab_size").GetInt32(), trained.VocabularySize);
        foreach (var merge in golden.GetProperty("merges").EnumerateArray().Where(merge => merge.ValueKind == JsonValueKind.Object))
        {
            foreach (string side in new[] { "left", "right" })
            {
                bool first = true;
                Assert.Equal(merge.GetProperty($"{side}_bytes").Ids(),
                    trained.BytesOf(merge.GetProperty($"{side}_id").GetInt32(), ref first).ToArray().Select(value => (int)value));
            }
        }

        // The largest run tells more about each merge.
        static string TextOf(JsonElement merge) => merge.ValueKind == JsonValueKind.Object
            ? $"{merge.GetProperty("left")} {merge.GetProperty("right")}"
            : $"{merge[0]} {merge[1]}";
    }

    [Fact]
    public void Ids_are_those_of_the_reference_library() =>
        Assert.Equal(TokenizerFixtures.Golden,
            TokenizerFixtures.Train([TokenizerFixtures.Corpus], TokenizerFixtures.Golden.VocabularySize, s_goldenSpecialTokens));

    [Fact]
    public void Merging_agrees_with_a_trainer_that_recounts_everything_every_time()
    {
        var random = new Random(7);
        for (int round = 0; round < 30; round++)
        {
            // Few letters and long words: overlaps, ties and repeated merges inside one word.
            string[] texts = [.. Enumerable.Range(0, 20).Select(_ => new string(random.GetItems<char>("aaab ", random.Next(1, 30))))];
            Assert.Equal(SlowMerges(texts, count: 40), TokenizerFixtures.Train(texts, 257 + 40).Content.Merges);
        }
    }

    [Fact]
    public void No_merge_crosses_a_word_or_a_text()
    {
        var trained = TokenizerFixtures.Train(Enumerable.Repeat("ab", 100), 1000);
        Assert.Equal(["a b"], trained.Content.Merges);
        Assert.Equal(258, trained.VocabularySize);
    }

    [Fact]
    public void Pairs_below_the_minimum_frequency_are_left_alone()
    {
        Assert.Empty(TokenizerFixtures.Train(["ab cd"], 1000).Content.Merges);
        Assert.Equal(3, TokenizerFixtures.Train(["ab cd"], 1000, minimumFrequency: 1).Content.Merges.Length);
    }

    [Fact]
    public void Text_cannot_learn_to_spell_a_special_token()
    {
        var trained = TokenizerFixtures.Train(Enumerable.Repeat("stop", 10), 1000, ["stop"]);
        Assert.DoesNotContain(trained.EndOfText, trained.Encode("stop"));
        Assert.Equal([trained.EndOfText], trained.Encode("stop", recognizeSpecialTokens: true));
    }

    [Fact]
    public void A_vocabulary_without_room_for_the_bytes_is_refused()
    {
        var error = Assert.Throws<ArgumentOutOfRangeException>(() => TokenizerFixtures.Train(["text"], 256));
        Assert.Contains("ask for 257 tokens or more", error.Message);
        Assert.Equal(257, TokenizerFixtures.Train(["text"], 257).VocabularySize);
    }

    [Theory]
    [InlineData]
    [InlineData("", "")]
    public void An_empty_corpus_is_refused(params string[] texts)
    {
        var error = Assert.Throws<ArgumentException>(() => TokenizerFixtures.Train(texts, 300));
        Assert.Contains("no text to learn a vocabulary from", error.Message);
    }

    [Fact]
    public void Training_can_be_cancelled()
    {
        using var cancel = new CancellationTokenSource();
        IEnumerable<string> Texts()
        {
            yield return "some text";
            cancel.Cancel();
            yield return "more text";
            Assert.Fail("A text was read after the cancellation.");
        }
        Assert.Throws<OperationCanceledException>(
            () => ByteLevelBpeTrainer.Train(Texts(), 300, checkCanceled: cancel.Token.ThrowIfCancellationRequested));
    }

    [Fact]
    public void The_catalog_trains_on_a_text_column()
    {
        var ml = new MLContext(seed: 1);
        var warnings = new List<string>();
        ml.Log += (_, e) => warnings.Add(e.Message);

        var trained = new TokenizerCatalog(ml).TrainByteLevelBpe(
            TokenizerFixtures.View(ml, "a cat, a hat, a bat"), 300, cancellationToken: TestContext.Current.CancellationToken);

        Assert.Equal(TokenizerFixtures.Train(["a cat, a hat, a bat"], 300), trained);
        Assert.Contains(warnings, message => message.Contains($"has {trained.VocabularySize} tokens, not the 300 asked for"));
    }

    [Fact]
    public void A_missing_text_column_is_named()
    {
        var ml = new MLContext();
        var error = Assert.Throws<ArgumentOutOfRangeException>(
            () => new TokenizerCatalog(ml).TrainByteLevelBpe(
                TokenizerFixtures.View(ml, "x"), textColumnName: "Body", cancellationToken: TestContext.Current.CancellationToken));
        Assert.Contains("Could not find text column 'Body'", error.Message);
    }

    /// <summary>The rules of Fixtures/tokenizers/README.md, word for word, and as slow as that.</summary>
    private static List<string> SlowMerges(string[] texts, int count)
    {
        var words = texts
            .SelectMany(text => new Gpt2PreTokenizer().PreTokenize(text).Select(piece => text.Substring(piece.Offset, piece.Length)))
            .Select(word => word.Select(letter => ByteAlphabet.Symbol((byte)letter).ToString()).ToList())
            .ToList();
        // Ids before merging follow the order of the symbols; a merge takes the next id.
        var order = words.SelectMany(word => word).Distinct().Order(StringComparer.Ordinal).ToList();
        var merges = new List<string>();
        while (merges.Count < count)
        {
            var best = words.SelectMany(word => word.Zip(word.Skip(1))).GroupBy(pair => pair).Where(pairs => pairs.Count() >= 2)
                .OrderByDescending(pairs => pairs.Count())
                .ThenBy(pairs => order.IndexOf(pairs.Key.First))
                .ThenBy(pairs => order.IndexOf(pairs.Key.Second))
                .FirstOrDefault();
            if (best is null)
                break;
            var (left, right) = best.Key;
            merges.Add($"{left} {right}");
            if (!order.Contains(left + right))
                order.Add(left + right);
            foreach (var word in words)
            {
                for (int i = 0; i + 1 < word.Count; i++)
                {
                    if (word[i] == left && word[i + 1] == right)
                    {
                        word[i] = left + right;
                        word.RemoveAt(i + 1);
                    }
                }
            }
        }
        return merges;
    }
}
