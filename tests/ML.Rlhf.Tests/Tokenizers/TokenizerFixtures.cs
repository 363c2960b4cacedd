using System.Text.Json;
using Microsoft.ML;

namespace ML.Rlhf.Tests.Tokenizers;

/// <summary>The golden files of Fixtures/tokenizers, and small tokenizers.</summary>
internal static class TokenizerFixtures
{
    public static string Corpus { get; } = File.ReadAllText(PathOf("corpus.txt"));

    public static JsonElement Json(string name) => JsonDocument.Parse(File.ReadAllText(PathOf(name))).RootElement;

    /// <summary>The tokenizer of the golden files, from vocab.json and merges.txt.</summary>
    public static TextTokenizer Golden { get; } = TextTokenizer.FromByteLevelBpe(
        Json("bpe/vocab.json").EnumerateObject().OrderBy(token => token.Value.GetInt32()).Select(token => token.Name),
        File.ReadLines(PathOf("bpe/merges.txt")).Where(line => line.Length > 0 && !line.StartsWith("#version")),
        new Dictionary<string, int> { ["<|endoftext|>"] = 0, ["<|pad|>"] = 1 },
        "<|endoftext|>");

    public static TextTokenizer Bytes { get; } = TextTokenizer.FromBytes();

    public static TextTokenizer Characters(string corpus, bool replaceUnknown = false) =>
        CharacterTokenizer.Train([corpus], replaceUnknown, TestContext.Current.CancellationToken.ThrowIfCancellationRequested);

    public static TextTokenizer Train(
        IEnumerable<string> texts, int vocabularySize, string[]? specialTokens = null, int minimumFrequency = 2) =>
        ByteLevelBpeTrainer.Train(
            texts, vocabularySize, specialTokens, minimumFrequency, TestContext.Current.CancellationToken.ThrowIfCancellationRequested);

    public static int[] Ids(this JsonElement element) => [.. element.EnumerateArray().Select(id => id.GetInt32())];

    /// <summary>Random text of everything that makes trouble: scripts, emoji, joiners, controls, white space, contractions.</summary>
    public static string RandomText(Random random)
    {
        string[] parts =
        [
            "a", "the", " the", "don't", "WE'LL", " ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "0", " 42", "\u0663", "½", "!",
            " ...", "'", "é", "e\u0301", "ß", "שלום", " \u202eabc", "مرحبا", "日本語", "한국어", "ไทย", "🙂", "👩‍🚀", "🏳️‍🌈", "🇸🇪",
            "𝔘", " 𠀀", "𝟙", "\0", "\u001f", "\uffff", "\ufeff", "\ufffd", "<|endoftext|>", "<|", "|>", "Ġ", "Ċ",
        ];
        return string.Concat(Enumerable.Range(0, random.Next(12)).Select(_ => parts[random.Next(parts.Length)]));
    }

    public static IDataView View(MLContext ml, params string[] texts) =>
        ml.Data.LoadFromEnumerable(texts.Select(text => new Row { Text = text }));

    public sealed class Row
    {
        public string Text { get; set; } = "";
    }

    /// <summary>A range of UTF-16 units as the reference library gives it, in code points.</summary>
    public static (int Start, int End) InCharacters(string text, Range range)
    {
        return (Count(range.Start.Value), Count(range.End.Value));
        int Count(int length) => text[..length].EnumerateRunes().Count();
    }

    public static string PathOf(string name) => Path.Combine(AppContext.BaseDirectory, "Fixtures", "tokenizers", name);
}
