using System.Text;
using System.Text.Json;
using Microsoft.ML;
using ML.Rlhf.TestSupport;
using ML.Rlhf.Tests.Tokenizers;

namespace ML.Rlhf.Tests.Fuzz;

/// <summary>
/// Tokenizers in every form that is read: <c>tokenizer.json</c>, <c>vocab.json</c> with <c>merges.txt</c>, SentencePiece's
/// <c>tokenizer.model</c>, WordPiece's <c>vocab.txt</c>, the files that tell more about the tokens, and our own. (The vocabularies of
/// tiktoken come from packages, not from files.)
/// </summary>
internal sealed class TokenizerFuzz : FuzzFormat
{
    private const string Saved = "saved"; // our own form
    private const string Text = "The fog, 42 ships 🙂\n don't été 日本 <|endoftext|></s> aaaaaaaaaaaaaaaa";

    private readonly TokenizerCatalog _tokenizers = new MLContext().Rlhf().Tokenizers;
    private readonly Dictionary<string, SplitText> _pieces = [];
    private readonly string[] _places;
    private int _reads;

    public TokenizerFuzz()
    {
        foreach (string name in new[]
        {
            "bert", "bert-cased", "digits", "gemma", "llama2", "llama3", "metaspace", "mistral", "prefix-space", "qwen2",
        })
            Add($"{name}/tokenizer.json", File.ReadAllBytes(TokenizerFixtures.PathOf($"pretrained/{name}/tokenizer.json")));
        Add("llama2/tokenizer_config.json", """
            {"bos_token": {"content": "<s>", "special": true}, "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": true,
             "legacy": false, "added_tokens_decoder": {"0": {"content": "<unk>"}}}
            """u8.ToArray());
        Add("llama2/special_tokens_map.json", """{"eos_token": {"content": "</s>", "lstrip": false}, "bos_token": "<s>"}"""u8.ToArray());
        Add("llama2/generation_config.json", """{"eos_token_id": [2, 0], "bos_token_id": 1}"""u8.ToArray());
        Add("model/tokenizer.model", File.ReadAllBytes(TokenizerFixtures.PathOf("pretrained/sentencepiece-bpe/tokenizer.model")));
        Add("gpt2/vocab.json", File.ReadAllBytes(TokenizerFixtures.PathOf("bpe/vocab.json")));
        Add("gpt2/merges.txt", File.ReadAllBytes(TokenizerFixtures.PathOf("bpe/merges.txt")));
        Add("gpt2/added_tokens.json", """{"<|endoftext|>": 0, "<|pad|>": 1}"""u8.ToArray());
        using var bert = JsonDocument.Parse(Whole["bert/tokenizer.json"]);
        Add("words/vocab.txt", Encoding.UTF8.GetBytes(string.Join('\n', bert.RootElement.GetProperty("model").GetProperty("vocab")
            .EnumerateObject().OrderBy(token => token.Value.GetInt32()).Select(token => token.Name))));
        Add("words/tokenizer_config.json", """
            {"do_lower_case": true, "tokenize_chinese_chars": true, "strip_accents": null, "unk_token": "[UNK]", "sep_token": "[SEP]"}
            """u8.ToArray());
        foreach (string name in new[] { "bert", "llama2", "llama3", "qwen2" })
        {
            using var stream = new MemoryStream();
            Read($"{name}/tokenizer.json").Save(stream);
            Add($"{Saved}/{name}", stream.ToArray());
        }
        _places = [.. Whole.Keys];
        foreach (var (place, content) in Whole.Where(file => !file.Key.EndsWith(".model", StringComparison.Ordinal)))
            _pieces.Add(place, place.EndsWith(".txt", StringComparison.Ordinal)
                ? new SplitText(Encoding.UTF8.GetString(content), new(@"\S+|\s"))
                : new SplitText(Encoding.UTF8.GetString(content)));
    }

    public override FuzzInput Damage(Mutator mutator)
    {
        string place = _places[mutator.Next(_places.Length)];
        return new(place, mutator.Next(4) > 0 && _pieces.TryGetValue(place, out var pieces)
            ? Encoding.UTF8.GetBytes(mutator.Pieces(pieces, s_values))
            : mutator.Bytes(Whole[place]));
    }

    public override void Read(FuzzInput input)
    {
        TextTokenizer? tokenizer = null;
        if (input.Place.StartsWith(Saved, StringComparison.Ordinal))
            tokenizer = TextTokenizer.Load(new MemoryStream(input.Content));
        else
            WithDamaged(input, _ => tokenizer = Read(input.Place));
        foreach (bool special in new[] { false, true })
            Assert.NotNull(tokenizer!.Decode(tokenizer.Encode(Text, special), includeSpecialTokens: special));
        tokenizer!.EncodeToTokens(Text, recognizeSpecialTokens: true);
        if (++_reads % 16 != 0)
            return;
        using var stream = new MemoryStream();
        tokenizer.Save(stream);
        stream.Position = 0;
        Assert.Equal(tokenizer, TextTokenizer.Load(stream)); // what can be read can be saved
    }

    public override bool IsRefusal(Exception e) => e is FormatException;

    private TextTokenizer Read(string place) => _tokenizers.FromPretrained(
        Path.Combine(Folder, Path.GetDirectoryName(place)!), place.StartsWith("llama3/", StringComparison.Ordinal) ? "<|eot_id|>" : null);

    /// <summary>What stands in these files, in places where it does not belong, and regular expressions that take long.</summary>
    private static readonly string[] s_values =
    [
        "null", "true", "0", "-1", "1e999", "2147483647", "4294967296", "{}", "[]", "[null]", "\"\"", "\"▁\"", "\" \"", "\"\\u0000\"",
        "\"\\ud800\"",
        "\"BPE\"", "\"WordPiece\"", "\"Unigram\"", "\"Sequence\"", "\"ByteLevel\"", "\"Metaspace\"", "\"Split\"", "\"NFC\"", "\"NFD\"",
        "\"Replace\"",
        "\"Prepend\"", "\"ByteFallback\"", "\"Fuse\"", "\"Strip\"", "\"BertNormalizer\"", "\"TemplateProcessing\"",
        "\"RobertaProcessing\"", "\"Isolated\"",
        "\"Removed\"", "\"Regex\"", "\"String\"", "\"<unk>\"", "\"<0x0A>\"", "\"[UNK]\"", "\"##\"", "\"a b\"", "\"\\r\\n\"",
        "\"Wordpiece\"",
        "\"(a*)*b\"", "\"(\\\\s*\\\\S*)*x\"", "\"(\"", "\"[\"", "\"\\\\p{Foo}\"", "\"a{2,1}\"", "\"a{0,999999999}\"", "\"(?i:s)\"",
        "\"[^]\"", "\"\\\\\"",
        "\"\"", new string('[', 100), $"\"{new string('(', 2000)}\"", $"\"{new string('a', 20_000)}\"",
        "{\"type\":\"Sequence\",\"normalizers\":[]}", "{\"type\":\"Sequence\",\"pretokenizers\":[]}", "{\"type\":\"NFC\"}",
        "{\"type\":\"ByteLevel\",\"add_prefix_space\":true}",
        "{\"id\":5,\"content\":\"cat\",\"normalized\":true,\"lstrip\":true,\"rstrip\":true}",
    ];
}
