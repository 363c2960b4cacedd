using System.Text.Json;

namespace ML.Rlhf;

/// <summary>The tokenizer files of a folder in the layout of Hugging Face.</summary>
internal static class PretrainedTokenizer
{
    /// <summary>The tokenizer of a folder.</summary>
    /// <param name="folder">The folder.</param>
    /// <param name="endOfText">The token that ends a text; null for the one that the folder names.</param>
    public static TextTokenizer Read(string folder, string? endOfText)
    {
        if (!Directory.Exists(folder))
            throw new DirectoryNotFoundException($"There is no folder '{folder}'.");
        string json = Path.Combine(folder, "tokenizer.json"), vocabulary = Path.Combine(folder, "vocab.json");
        string file = File.Exists(json) ? json : File.Exists(vocabulary) ? vocabulary : throw new FileNotFoundException(
            $"The folder '{folder}' has no tokenizer: none of tokenizer.json, and vocab.json with merges.txt.");
        try
        {
            TokenizerContent content = file == json ? TokenizerJsonReader.Read(JsonFile.Read(json)) : ReadVocabularyAndMerges(folder);
            return new TextTokenizer(WithRoles(content, folder, endOfText));
        }
        catch (FormatException exception)
        {
            throw new FormatException($"The tokenizer {file} cannot be used. {exception.Message}", exception);
        }
    }

    /// <summary>GPT-2's two files: the ids of the tokens, and the merges with a space between the two tokens of each.</summary>
    private static TokenizerContent ReadVocabularyAndMerges(string folder)
    {
        string merges = Path.Combine(folder, "merges.txt");
        if (!File.Exists(merges))
            throw new FormatException("There is no merges.txt beside it.");
        JsonFile.CheckLength(merges);
        var tokens = Ids(Path.Combine(folder, "vocab.json"));
        AddedToken[] added =
        [
            .. Ids(Path.Combine(folder, "added_tokens.json")).Select(token => new AddedToken(token.Text, token.Id, Special: true)),
        ];
        return new TokenizerContent
        {
            Kind = TokenizerKind.ByteLevelBpe,
            Vocabulary = TokenizerJsonReader.Vocabulary(tokens, added),
            Merges = [.. File.ReadLines(merges).Where((line, i) => line.Length > 0 && !(i == 0 && line.StartsWith("#version")))],
            SpecialTokens = added.ToDictionary(token => token.Text, token => token.Id),
        };
    }

    private static IEnumerable<(string Text, int Id)> Ids(string path) =>
        JsonFile.ReadIfThere(path) is { } ids ? ids.EnumerateObject().Select(token => (token.Name, token.Value.AsId(token.Name))) : [];

    /// <summary>Finds out which token ends a text and which begins one, and makes special what the folder calls so.</summary>
    private static TokenizerContent WithRoles(TokenizerContent content, string folder, string? endOfText)
    {
        JsonElement?[] configurations =
        [
            JsonFile.ReadIfThere(Path.Combine(folder, "tokenizer_config.json")),
            JsonFile.ReadIfThere(Path.Combine(folder, "special_tokens_map.json")),
        ];
        string?[] vocabulary = content.Vocabulary;
        string end = endOfText
            ?? configurations.Select(configuration => TokenNamed(configuration, "eos_token")).FirstOrDefault(name => name is not null)
            ?? EndTokenOfModel(folder, vocabulary)
            ?? new[] { "<|endoftext|>" }.FirstOrDefault(vocabulary.Contains)
            ?? throw new FormatException(
                "Nothing in the folder says which token ends a text (\"eos_token\" of tokenizer_config.json does). Name it: endOfText.");
        int id = Array.IndexOf(vocabulary, end);
        if (id < 0)
            throw new FormatException($"The end-of-text token '{end}' is not in the vocabulary.");

        var special = new Dictionary<string, int>(content.SpecialTokens) { [end] = id };
        return content with
        {
            EndOfText = end,
            SpecialTokens = special,
            AddedTokens = content.AddedTokens?.Select(token => token with { Special = special.ContainsKey(token.Text) }).ToArray(),
        };
    }

    /// <summary>Such a token is a text, or an object with all that is known of it.</summary>
    private static string? TokenNamed(JsonElement? configuration, string name) => configuration?.Member(name) switch
    {
        null => null,
        { ValueKind: JsonValueKind.String } text => text.AsText(name),
        var token => token.Value.Text("content"),
    };

    /// <summary>The model's own idea of it; some models have several, of which the first is meant.</summary>
    private static string? EndTokenOfModel(string folder, string?[] vocabulary)
    {
        foreach (string file in new[] { "generation_config.json", "config.json" })
        {
            JsonElement? id = JsonFile.ReadIfThere(Path.Combine(folder, file))?.Member("eos_token_id");
            if (id is { ValueKind: JsonValueKind.Array } several)
                id = several.EnumerateArray().FirstOrDefault();
            if (id?.AsId("eos_token_id") is { } number && number < vocabulary.Length && vocabulary[number] is { } token)
                return token;
        }
        return null;
    }
}
