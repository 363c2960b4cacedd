using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Serialization;
using System.Text.Json.Serialization.Metadata;

namespace ML.Rlhf;

/// <summary>
/// All that a <see cref="TextTokenizer"/> consists of: what two of them are compared by, and the JSON document that is saved.
/// </summary>
internal sealed record TokenizerContent
{
    private const string FormatName = "ML.Rlhf tokenizer";
    private const int NewestVersion = 2; // 1 had none of what pretrained tokenizers need, from AddedTokens down

    // "Ġthe" is written as it is, not in escapes: the document is never part of a web page.
    private static readonly JsonTypeInfo<TokenizerContent> s_json =
        new TokenizerJson(new(TokenizerJson.Default.Options) { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping }).TokenizerContent;

    // The order of these members is the order in the document. Format and version come first, for people and for newer versions.
    public string Format => FormatName;
    public int Version => NewestVersion;
    public TokenizerKind Kind { get; init; }

    /// <summary>The key in <see cref="SpecialTokens"/> of the token that ends a text.</summary>
    public string EndOfText { get; init; } = "";
    public Dictionary<string, int> SpecialTokens { get; init; } = [];

    /// <summary>Characters only: a character that is not in the vocabulary is read as U+FFFD, which is.</summary>
    public bool ReplaceUnknown { get; init; }

    /// <summary>
    /// The text of each id. Special tokens and characters as they are; bytes in <see cref="ByteAlphabet"/>. Null for an id without a
    /// token, which stands for no text: a model can have more ids than its tokenizer.
    /// </summary>
    public string?[] Vocabulary { get; init; } = [];

    /// <summary>Byte-level BPE only: two tokens with a space between them, the first merge first.</summary>
    public string[] Merges { get; init; } = [];

    /// <summary>The key in <see cref="SpecialTokens"/> of the token that every text begins with; null where there is none.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public string? BeginningOfText { get; init; }

    /// <summary>The key in <see cref="SpecialTokens"/> of the token that stands behind every text, such as [SEP].</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public string? AfterText { get; init; }

    /// <summary>Tokens found in text as they stand that <see cref="SpecialTokens"/> does not say all about.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public AddedToken[]? AddedTokens { get; init; }

    /// <summary>Byte-level BPE only; null for GPT-2's.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public ByteLevelRules? ByteLevel { get; init; }

    /// <summary>SentencePiece-style BPE only.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public SentencePieceRules? SentencePiece { get; init; }

    /// <summary>WordPiece only.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public WordPieceRules? WordPiece { get; init; }

    public bool SameAs(TokenizerContent other) =>
        Kind == other.Kind
        && EndOfText == other.EndOfText
        && BeginningOfText == other.BeginningOfText
        && AfterText == other.AfterText
        && ReplaceUnknown == other.ReplaceUnknown
        && Vocabulary.AsSpan().SequenceEqual(other.Vocabulary)
        && Merges.AsSpan().SequenceEqual(other.Merges)
        && SpecialTokens.Count == other.SpecialTokens.Count
        && SpecialTokens.All(token => other.SpecialTokens.TryGetValue(token.Key, out int id) && id == token.Value)
        && (AddedTokens ?? []).ToHashSet().SetEquals(other.AddedTokens ?? [])
        && RulesJson().SequenceEqual(other.RulesJson());

    /// <summary>The rules of the kind, in a form that can be compared.</summary>
    private byte[] RulesJson() => JsonSerializer.SerializeToUtf8Bytes(
        new TokenizerContent { ByteLevel = ByteLevel, SentencePiece = SentencePiece, WordPiece = WordPiece }, s_json);

    /// <summary>Every token that is found in text as it stands.</summary>
    public IEnumerable<AddedToken> AllAddedTokens()
    {
        AddedToken[] listed = AddedTokens ?? [];
        return SpecialTokens.Select(token => new AddedToken(token.Key, token.Value, Special: true))
            .ExceptBy(listed.Select(token => token.Text), token => token.Text).Concat(listed);
    }

    /// <summary>The id of each token. Call <see cref="Check"/> first.</summary>
    public Dictionary<string, int> Ids() =>
        Vocabulary.Index().Where(token => token.Item is not null).ToDictionary(token => token.Item!, token => token.Index);

    public void Write(Stream stream) => JsonSerializer.Serialize(stream, this, s_json);

    public static TokenizerContent Read(Stream stream)
    {
        try
        {
            using var document = JsonDocument.Parse(stream);
            CheckHeader(document.RootElement);
            return document.RootElement.Deserialize(s_json)!;
        }
        catch (JsonException exception)
        {
            throw new FormatException($"This is not a saved tokenizer, or it is damaged: {exception.Message}");
        }
    }

    /// <summary>Looks at format and version before anything else: what a newer version means by the rest is not known here.</summary>
    private static void CheckHeader(JsonElement root)
    {
        if (root.ValueKind != JsonValueKind.Object || !root.TryGetProperty("format", out JsonElement format)
            || format.ValueKind != JsonValueKind.String || format.GetString() != FormatName
            || !root.TryGetProperty("version", out JsonElement number) || number.ValueKind != JsonValueKind.Number
            || !number.TryGetInt32(out int version) || version < 1)
            throw new FormatException($"This is not a saved tokenizer: it does not begin with \"format\": \"{FormatName}\" and a version.");
        if (version > NewestVersion)
            throw new FormatException(
                $"This tokenizer was saved in format version {version}, and this version of the package ML.Rlhf reads up to "
                + $"{NewestVersion}. Update the package ML.Rlhf.");
    }

    /// <summary>Throws unless every part fits the others, so that a damaged file fails here and not in the middle of a text.</summary>
    /// <exception cref="FormatException">Says what does not fit.</exception>
    public void Check()
    {
        if (!Enum.IsDefined(Kind))
            throw Damaged($"there is no kind {(int)Kind}");
        if (Vocabulary is null || Merges is null || SpecialTokens is null || EndOfText is null
            || Merges.Any(merge => merge is null))
            throw Damaged("a part of it is missing");

        var ids = new Dictionary<string, int>();
        for (int id = 0; id < Vocabulary.Length; id++)
        {
            if (Vocabulary[id] is { } token && !ids.TryAdd(token, id))
                throw Damaged($"token '{token}' has two ids, {ids[token]} and {id}");
        }
        CheckSpecialTokens(ids);
        bool rightRules = Kind == TokenizerKind.SentencePieceBpe == (SentencePiece is not null)
            && Kind == TokenizerKind.WordPiece == (WordPiece is not null) && (Kind == TokenizerKind.ByteLevelBpe || ByteLevel is null);
        if (!rightRules)
            throw Damaged("it has the rules of another kind, or none");
        CheckRules();
        if (Kind == TokenizerKind.Characters)
            CheckCharacters(ids);
        else if (Kind == TokenizerKind.SentencePieceBpe)
            CheckUnknownToken(ids, SentencePiece!.UnknownToken);
        else if (Kind == TokenizerKind.WordPiece)
            CheckWordPiece(ids);
        else
            CheckBytes(ids);
        CheckMerges(ids);
    }

    private void CheckRules()
    {
        bool whole = (ByteLevel is null || Enum.IsDefined(ByteLevel.Normalization) && ByteLevel.Splits is { } splits
                && splits.All(split => split is { Pattern: not null }))
            && (SentencePiece is null || Enum.IsDefined(SentencePiece.Normalization) && Enum.IsDefined(SentencePiece.Prefix)
                && Enum.IsDefined(SentencePiece.Leading));
        if (!whole)
            throw Damaged("a part of its rules is missing, or there is no such rule");
    }

    private static void CheckUnknownToken(Dictionary<string, int> ids, string? unknown)
    {
        if (unknown is not null && !ids.ContainsKey(unknown))
            throw Damaged($"the token for what is unknown, '{unknown}', is not in the vocabulary");
    }

    private void CheckSpecialTokens(Dictionary<string, int> ids)
    {
        foreach (var (token, id) in SpecialTokens)
        {
            if (token.Length == 0 || !ids.TryGetValue(token, out int inVocabulary) || inVocabulary != id)
                throw Damaged($"special token '{token}' with id {id} is not in the vocabulary under this id");
        }
        if (!SpecialTokens.ContainsKey(EndOfText))
            throw Damaged($"the end-of-text token '{EndOfText}' is not among the special tokens");
        foreach (string? token in new[] { BeginningOfText, AfterText })
        {
            if (token is not null && !SpecialTokens.ContainsKey(token))
                throw Damaged($"token '{token}', which stands around every text, is not among the special tokens");
        }
        var added = new HashSet<string>();
        foreach (AddedToken token in AddedTokens ?? [])
        {
            if (token is null || string.IsNullOrEmpty(token.Text) || !ids.TryGetValue(token.Text, out int id) || id != token.Id
                || token.Special != SpecialTokens.ContainsKey(token.Text) || !added.Add(token.Text))
                throw Damaged($"added token '{token?.Text}' with id {token?.Id} does not fit the vocabulary");
        }
    }

    private void CheckCharacters(Dictionary<string, int> ids)
    {
        int last = Array.FindLastIndex(Vocabulary, token => token is not null); // a padded vocabulary goes on without text
        if (SpecialTokens.Count != 1 || SpecialTokens[EndOfText] != last)
            throw Damaged("a character tokenizer has one special token, with the last id");
        foreach (string? token in Vocabulary.AsSpan(0, last))
        {
            if (token is null || !Rune.TryGetRuneAt(token, 0, out Rune rune) || rune.Utf16SequenceLength != token.Length)
                throw Damaged($"token '{token}' is not one character");
        }
        if (ReplaceUnknown && !ids.ContainsKey("\uFFFD"))
            throw Damaged("it is to replace unknown characters by U+FFFD, which is not in its vocabulary");
    }

    private void CheckBytes(Dictionary<string, int> ids)
    {
        for (int value = 0; value < 256; value++)
        {
            string symbol = ByteAlphabet.Symbol((byte)value).ToString();
            if (!ids.TryGetValue(symbol, out int id))
                throw Damaged($"byte {value} ('{symbol}') is not in the vocabulary");
            if (Kind == TokenizerKind.Bytes && id != value)
                throw Damaged($"byte {value} has id {id}");
        }
        if (Kind == TokenizerKind.Bytes && (ids.Count != 257 || SpecialTokens[EndOfText] != ByteTokenizer.EndOfText))
            throw Damaged("a byte tokenizer has 256 bytes and one special token");
        HashSet<string> asTheyStand = [.. SpecialTokens.Keys, .. (AddedTokens ?? []).Select(token => token.Text)];
        foreach (string token in ids.Keys)
        {
            if (!asTheyStand.Contains(token) && (token.Length == 0 || !ByteAlphabet.TryRead(token, out _)))
                throw Damaged($"token '{token}' is not written in the byte alphabet");
        }
    }

    private void CheckWordPiece(Dictionary<string, int> ids)
    {
        CheckUnknownToken(ids, WordPiece!.UnknownToken ?? "");
        if (WordPiece.ContinuingPrefix is null || WordPiece.MaximumWordLength is < 1 or > 10_000)
            throw Damaged($"words of up to {WordPiece.MaximumWordLength} characters; 1 to 10000 are supported");
        if (ids.Keys.FirstOrDefault(token => token.AsSpan().ContainsAny('\r', '\n')) is { } token)
            throw Damaged($"token '{token}' has a line break");
    }

    private void CheckMerges(Dictionary<string, int> ids)
    {
        if (Kind is not (TokenizerKind.ByteLevelBpe or TokenizerKind.SentencePieceBpe) && Merges.Length > 0)
            throw Damaged("only byte-pair encoding has merges");
        var seen = new HashSet<string>();
        foreach (string merge in Merges)
        {
            string[] parts = merge.Split(' ');
            bool known = parts.Length == 2 && parts.All(ids.ContainsKey) && ids.ContainsKey(parts[0] + parts[1]);
            if (!known || SpecialTokens.ContainsKey(parts[0] + parts[1]))
                throw Damaged($"merge '{merge}' does not join two tokens of the vocabulary to a third");
            if (!seen.Add(merge))
                throw Damaged($"merge '{merge}' is there twice");
        }
    }

    private static FormatException Damaged(string what) => new($"The tokenizer is damaged: {what}.");
}

/// <summary>Generated at compile time, so that it also works where reflection-based JSON is switched off.</summary>
[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase, UseStringEnumConverter = true)]
[JsonSerializable(typeof(TokenizerContent))]
internal sealed partial class TokenizerJson : JsonSerializerContext;
