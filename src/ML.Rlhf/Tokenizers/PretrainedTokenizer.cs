using System.Text.Json;

namespace ML.Rlhf;

/// <summary>The tokenizer files of a folder in the layout of Hugging Face.</summary>
internal static class PretrainedTokenizer
{
    private const string TokenizerJson = "tokenizer.json", VocabularyJson = "vocab.json", Model = "tokenizer.model", Words = "vocab.txt";

    /// <summary>The tokenizer of a folder.</summary>
    /// <param name="folder">The folder.</param>
    /// <param name="endOfText">The token that ends a text; null for the one that the folder names.</param>
    public static TextTokenizer Read(string folder, string? endOfText)
    {
        if (!Directory.Exists(folder))
            throw new DirectoryNotFoundException($"There is no folder '{folder}'.");
        string file = new[] { TokenizerJson, VocabularyJson, Model, Words }.FirstOrDefault(name => File.Exists(Path.Combine(folder, name)))
            ?? throw new FileNotFoundException($"The folder '{folder}' has no tokenizer: none of {TokenizerJson}, {VocabularyJson} with " +
                $"merges.txt, {Model}, and {Words}.");
        string path = Path.Combine(folder, file);
        try
        {
            var configuration = TokenizerConfiguration.Read(folder);
            TokenizerContent content = file switch
            {
                TokenizerJson => TokenizerJsonReader.Read(JsonFile.Read(path)),
                VocabularyJson => ReadVocabularyAndMerges(path, folder),
                Model => ReadModel(path, configuration),
                _ => ReadWords(path, configuration),
            };
            return new TextTokenizer(WithRoles(content, configuration, folder, endOfText));
        }
        catch (FormatException exception)
        {
            throw new FormatException($"The tokenizer {path} cannot be used. {exception.Message}", exception);
        }
    }

    /// <summary>GPT-2's two files: the ids of the tokens, and the merges with a space between the two tokens of each.</summary>
    private static TokenizerContent ReadVocabularyAndMerges(string path, string folder)
    {
        string merges = Path.Combine(folder, "merges.txt");
        if (!File.Exists(merges))
            throw new FormatException("There is no merges.txt beside it.");
        JsonFile.CheckLength(merges);
        var tokens = Ids(path);
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
        JsonFile.ReadIfThere(path)?.Ids(Path.GetFileName(path)) ?? [];

    private static TokenizerContent ReadModel(string path, TokenizerConfiguration configuration)
    {
        JsonFile.CheckLength(path);
        TokenizerContent content = SentencePieceModelReader.Read(
            File.ReadAllBytes(path), configuration.Flag("legacy") == false ? PrefixScheme.First : PrefixScheme.Unconditional);
        string beginning = configuration.Token("bos_token") ?? "<s>";
        bool begins = configuration.Flag("add_bos_token") ?? true;
        return content with { BeginningOfText = begins && content.SpecialTokens.ContainsKey(beginning) ? beginning : null };
    }

    /// <summary>BERT's file: a token in each line. What is done to the text stands in tokenizer_config.json.</summary>
    private static TokenizerContent ReadWords(string path, TokenizerConfiguration configuration)
    {
        JsonFile.CheckLength(path);
        string[] words = File.ReadAllLines(path);
        string?[] vocabulary = TokenizerJsonReader.Vocabulary(
            words.Select((word, id) => (word, id)).Where(token => token.word.Length > 0), []);
        var roles = new[] { "unk", "sep", "pad", "cls", "mask" }
            .ToDictionary(role => role, role => configuration.Token($"{role}_token") ?? $"[{role.ToUpperInvariant()}]");
        bool lowercase = configuration.Flag("do_lower_case") ?? true;
        return new TokenizerContent
        {
            Kind = TokenizerKind.WordPiece,
            Vocabulary = vocabulary,
            SpecialTokens = roles.Values.Distinct().Where(vocabulary.Contains)
                .ToDictionary(token => token, token => Array.IndexOf(vocabulary, token)),
            BeginningOfText = vocabulary.Contains(roles["cls"]) ? roles["cls"] : null,
            AfterText = vocabulary.Contains(roles["sep"]) ? roles["sep"] : null,
            WordPiece = new WordPieceRules
            {
                SeparateChinese = configuration.Flag("tokenize_chinese_chars") ?? true,
                StripAccents = configuration.Flag("strip_accents") ?? lowercase,
                Lowercase = lowercase,
                UnknownToken = roles["unk"],
            },
        };
    }

    /// <summary>Finds out which token ends a text, and makes it special if it is not.</summary>
    private static TokenizerContent WithRoles(
        TokenizerContent content, TokenizerConfiguration configuration, string folder, string? endOfText)
    {
        string?[] vocabulary = content.Vocabulary;
        string end = endOfText
            ?? configuration.Token("eos_token")
            ?? (content.Kind == TokenizerKind.WordPiece ? configuration.Token("sep_token") ?? "[SEP]" : null)
            ?? EndTokenOfModel(folder, vocabulary)
            ?? new[] { "<|endoftext|>", "</s>" }.FirstOrDefault(vocabulary.Contains)
            ?? throw new FormatException(
                "Nothing in the folder says which token ends a text (\"eos_token\" of tokenizer_config.json does). Name it: endOfText.");
        int id = Array.IndexOf(vocabulary, end);
        if (id < 0)
            throw new FormatException($"The end-of-text token '{end}' is not in the vocabulary.");

        var special = new Dictionary<string, int>(content.SpecialTokens) { [end] = id };
        AddedToken[] added =
        [
            .. (content.AddedTokens ?? []).Select(token => token with { Special = special.ContainsKey(token.Text) })
                .Where(token => !token.IsPlain),
        ];
        return content with { EndOfText = end, SpecialTokens = special, AddedTokens = added.Length > 0 ? added : null };
    }

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

    /// <summary>What tokenizer_config.json and, after it, special_tokens_map.json say about a tokenizer.</summary>
    private sealed record TokenizerConfiguration(JsonElement[] Files)
    {
        public static TokenizerConfiguration Read(string folder) => new(
        [
            .. new[] { "tokenizer_config.json", "special_tokens_map.json" }
                .Select(name => JsonFile.ReadIfThere(Path.Combine(folder, name))).OfType<JsonElement>(),
        ]);

        public bool? Flag(string name) => Files.Select(file => file.Flag(name)).FirstOrDefault(flag => flag is not null);

        /// <summary>Such a token is a text, or an object with all that is known of it.</summary>
        public string? Token(string name) => Files.Select(file => file.Member(name) switch
        {
            null => null,
            { ValueKind: JsonValueKind.String } text => text.AsText(name),
            var token => token.Value.Text("content"),
        }).FirstOrDefault(token => token is not null);
    }
}
