using System.Text.Encodings.Web;
using System.Text.Json;

namespace ML.Rlhf;

/// <summary>Writes a tokenizer as the <c>tokenizers</c> library reads it: the reverse of <see cref="TokenizerJsonReader"/>.</summary>
internal static class TokenizerJsonWriter
{
    private static readonly JsonWriterOptions s_options = new() { Indented = true, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    /// <summary>Writes tokenizer.json and tokenizer_config.json into a folder that exists.</summary>
    /// <exception cref="NotSupportedException">The library has no such tokenizer.</exception>
    public static void Write(string folder, TokenizerContent content)
    {
        if (content.Kind == TokenizerKind.Characters)
            throw new NotSupportedException(
                "A tokenizer of characters has no tokenizer.json that keeps its ids. Train a byte-level BPE for models that are to be " +
                "exchanged, or keep this one in model.zip.");
        WriteFile(Path.Combine(folder, "tokenizer.json"), json => WriteTokenizer(json, content));
        WriteFile(Path.Combine(folder, "tokenizer_config.json"), json => WriteConfiguration(json, content));
    }

    private static void WriteFile(string path, Action<Utf8JsonWriter> write)
    {
        using FileStream stream = File.Create(path);
        using var json = new Utf8JsonWriter(stream, s_options);
        json.WriteStartObject();
        write(json);
        json.WriteEndObject();
    }

    /// <summary>What transformers makes a tokenizer of: the roles of its tokens.</summary>
    private static void WriteConfiguration(Utf8JsonWriter json, TokenizerContent content)
    {
        json.WriteString("tokenizer_class", "PreTrainedTokenizerFast");
        json.WriteBoolean("clean_up_tokenization_spaces", false);
        json.WriteString("eos_token", content.EndOfText);
        if (content.BeginningOfText is { } beginning)
            json.WriteString("bos_token", beginning);
        if (UnknownToken(content) is { } unknown)
            json.WriteString("unk_token", unknown);
        if (content.Kind == TokenizerKind.WordPiece)
        {
            json.WriteString("cls_token", content.BeginningOfText);
            json.WriteString("sep_token", content.EndOfText);
            foreach (var (name, token) in new[] { ("pad_token", "[PAD]"), ("mask_token", "[MASK]") })
            {
                if (content.SpecialTokens.ContainsKey(token))
                    json.WriteString(name, token);
            }
        }
    }

    private static string? UnknownToken(TokenizerContent content) => content.SentencePiece?.UnknownToken ?? content.WordPiece?.UnknownToken;

    private static void WriteTokenizer(Utf8JsonWriter json, TokenizerContent content)
    {
        json.WriteString("version", "1.0");
        json.WriteNull("truncation");
        json.WriteNull("padding");
        json.WriteStartArray("added_tokens");
        foreach (AddedToken token in content.AllAddedTokens().OrderBy(token => token.Id))
            WriteAddedToken(json, token);
        json.WriteEndArray();

        switch (content.Kind)
        {
            case TokenizerKind.SentencePieceBpe:
                WriteSentencePieceText(json, content.SentencePiece!);
                break;
            case TokenizerKind.WordPiece:
                WriteWordPieceText(json, content.WordPiece!);
                break;
            case TokenizerKind.Bytes:
                WriteByteLevelText(json, new ByteLevelRules { Splits = [] });
                break;
            default:
                WriteByteLevelText(json, content.ByteLevel ?? new ByteLevelRules());
                break;
        }
        WritePostProcessor(json, content);
        WriteModel(json, content);
    }

    private static void WriteAddedToken(Utf8JsonWriter json, AddedToken token)
    {
        json.WriteStartObject();
        json.WriteNumber("id", token.Id);
        json.WriteString("content", token.Text);
        json.WriteBoolean("single_word", token.SingleWord);
        json.WriteBoolean("lstrip", token.StripLeft);
        json.WriteBoolean("rstrip", token.StripRight);
        json.WriteBoolean("normalized", token.Normalized);
        json.WriteBoolean("special", token.Special);
        json.WriteEndObject();
    }

    // ---- Normalizer, pre-tokenizer and decoder of each kind ----

    private static void WriteByteLevelText(Utf8JsonWriter json, ByteLevelRules rules)
    {
        WriteSequence(json, "normalizer", "normalizers", UnicodeForm(rules.Normalization));
        SplitRule[] splits = rules.Splits;
        bool endsWithGpt2 = splits is [.., var last] && last == SplitRule.Gpt2; // which ByteLevel does itself
        WriteSequence(json, "pre_tokenizer", "pretokenizers",
        [
            .. (endsWithGpt2 ? splits[..^1] : splits).Select(WriteSplit),
            () => WriteByteLevel(json, null, rules.PrefixSpace, useRegex: endsWithGpt2),
        ]);
        WriteByteLevel(json, "decoder", prefixSpace: true, useRegex: true);

        Action WriteSplit(SplitRule rule) => () =>
        {
            WriteType(json, null, "Split");
            json.WriteStartObject("pattern");
            json.WriteString("Regex", rule.Pattern);
            json.WriteEndObject();
            json.WriteString("behavior", rule.KeepRest ? "Isolated" : "Removed");
            json.WriteBoolean("invert", !rule.KeepRest);
            json.WriteEndObject();
        };
        Action[] UnicodeForm(UnicodeForm form) => form == ML.Rlhf.UnicodeForm.None ? [] : [() => WriteUnicodeForm(json, form)];
    }

    private static void WriteUnicodeForm(Utf8JsonWriter json, UnicodeForm form)
    {
        WriteType(json, null, form.ToString().ToUpperInvariant());
        json.WriteEndObject();
    }

    private static void WriteByteLevel(Utf8JsonWriter json, string? name, bool prefixSpace, bool useRegex)
    {
        WriteType(json, name, "ByteLevel");
        json.WriteBoolean("add_prefix_space", prefixSpace);
        json.WriteBoolean("trim_offsets", true);
        json.WriteBoolean("use_regex", useRegex);
        json.WriteEndObject();
    }

    private static void WriteSentencePieceText(Utf8JsonWriter json, SentencePieceRules rules)
    {
        bool metaspace = rules.Prefix is PrefixScheme.First or PrefixScheme.Always;
        var normalizers = new List<Action>();
        if (rules.Normalization != UnicodeForm.None)
            normalizers.Add(() => WriteUnicodeForm(json, rules.Normalization));
        if (rules.Prefix == PrefixScheme.Unconditional)
            normalizers.Add(() =>
            {
                WriteType(json, null, "Prepend");
                json.WriteString("prepend", "▁");
                json.WriteEndObject();
            });
        if (!metaspace)
            normalizers.Add(() => WriteReplace(json, " ", "▁"));
        WriteSequence(json, "normalizer", "normalizers", [.. normalizers]);

        string scheme = rules.Prefix switch { PrefixScheme.First => "first", PrefixScheme.Always => "always", _ => "never" };
        WriteSequence(json, "pre_tokenizer", "pretokenizers", metaspace || rules.SplitWords ? [() => WriteMetaspace(scheme)] : []);

        bool dropsAll = rules.Leading == LeadingSpace.DropFromFirstToken;
        var decoders = new List<Action> { dropsAll ? () => WriteMetaspace("always") : () => WriteReplace(json, "▁", " ") };
        if (rules.DecodesBytes)
            decoders.Add(() => { WriteType(json, null, "ByteFallback"); json.WriteEndObject(); });
        if (!dropsAll || rules.DecodesBytes)
            decoders.Add(() => { WriteType(json, null, "Fuse"); json.WriteEndObject(); });
        if (rules.Leading == LeadingSpace.DropOne)
            decoders.Add(() =>
            {
                WriteType(json, null, "Strip");
                json.WriteString("content", " ");
                json.WriteNumber("start", 1);
                json.WriteNumber("stop", 0);
                json.WriteEndObject();
            });
        WriteSequence(json, "decoder", "decoders", [.. decoders]);

        void WriteMetaspace(string scheme)
        {
            WriteType(json, null, "Metaspace");
            json.WriteString("replacement", "▁");
            json.WriteString("prepend_scheme", scheme);
            json.WriteBoolean("split", rules.SplitWords);
            json.WriteEndObject();
        }
    }

    private static void WriteReplace(Utf8JsonWriter json, string from, string to)
    {
        WriteType(json, null, "Replace");
        json.WriteStartObject("pattern");
        json.WriteString("String", from);
        json.WriteEndObject();
        json.WriteString("content", to);
        json.WriteEndObject();
    }

    private static void WriteWordPieceText(Utf8JsonWriter json, WordPieceRules rules)
    {
        WriteType(json, "normalizer", "BertNormalizer");
        json.WriteBoolean("clean_text", rules.CleanText);
        json.WriteBoolean("handle_chinese_chars", rules.SeparateChinese);
        json.WriteBoolean("strip_accents", rules.StripAccents);
        json.WriteBoolean("lowercase", rules.Lowercase);
        json.WriteEndObject();
        WriteType(json, "pre_tokenizer", "BertPreTokenizer");
        json.WriteEndObject();
        WriteType(json, "decoder", "WordPiece");
        json.WriteString("prefix", rules.ContinuingPrefix);
        json.WriteBoolean("cleanup", rules.TidiesDecoded);
        json.WriteEndObject();
    }

    // ---- Parts of all kinds ----

    /// <summary>The tokens that the post-processor puts around every text.</summary>
    private static void WritePostProcessor(Utf8JsonWriter json, TokenizerContent content)
    {
        string?[] single = [content.BeginningOfText, null, content.AfterText];
        string[] special = [.. single.OfType<string>().Distinct()];
        if (special.Length == 0)
        {
            json.WriteNull("post_processor");
            return;
        }
        WriteType(json, "post_processor", "TemplateProcessing");
        WriteTemplate("single", [content.BeginningOfText, "A", content.AfterText], [0, 0, 0]);
        WriteTemplate("pair", [content.BeginningOfText, "A", content.AfterText, "B", content.AfterText], [0, 0, 0, 1, 1]);
        json.WriteStartObject("special_tokens");
        foreach (string token in special)
        {
            json.WriteStartObject(token);
            json.WriteString("id", token);
            json.WriteStartArray("ids");
            json.WriteNumberValue(content.SpecialTokens[token]);
            json.WriteEndArray();
            json.WriteStartArray("tokens");
            json.WriteStringValue(token);
            json.WriteEndArray();
            json.WriteEndObject();
        }
        json.WriteEndObject();
        json.WriteEndObject();

        void WriteTemplate(string name, string?[] parts, int[] types)
        {
            json.WriteStartArray(name);
            foreach (var (part, type) in parts.Zip(types).Where(part => part.First is not null))
            {
                json.WriteStartObject();
                json.WriteStartObject(part is "A" or "B" ? "Sequence" : "SpecialToken");
                json.WriteString("id", part);
                json.WriteNumber("type_id", type);
                json.WriteEndObject();
                json.WriteEndObject();
            }
            json.WriteEndArray();
        }
    }

    private static void WriteModel(Utf8JsonWriter json, TokenizerContent content)
    {
        if (content.WordPiece is { } words)
        {
            WriteType(json, "model", "WordPiece");
            json.WriteString("unk_token", words.UnknownToken);
            json.WriteString("continuing_subword_prefix", words.ContinuingPrefix);
            json.WriteNumber("max_input_chars_per_word", words.MaximumWordLength);
        }
        else
        {
            WriteType(json, "model", "BPE");
            json.WriteNull("dropout");
            json.WriteString("unk_token", UnknownToken(content));
            json.WriteNull("continuing_subword_prefix");
            json.WriteNull("end_of_word_suffix");
            json.WriteBoolean("fuse_unk", content.SentencePiece?.FuseUnknown ?? false);
            json.WriteBoolean("byte_fallback", content.SentencePiece?.ByteFallback ?? false);
            json.WriteBoolean("ignore_merges", content.ByteLevel?.WholePieces ?? content.SentencePiece?.WholePieces ?? false);
        }

        json.WriteStartObject("vocab");
        foreach (var (id, token) in content.Vocabulary[..ModelTokens(content)].Index().Where(token => token.Item is not null))
            json.WriteNumber(token!, id);
        json.WriteEndObject();
        if (content.WordPiece is null)
        {
            json.WriteStartArray("merges");
            foreach (string[] merge in content.Merges.Select(merge => merge.Split(' ')))
            {
                json.WriteStartArray();
                json.WriteStringValue(merge[0]);
                json.WriteStringValue(merge[1]);
                json.WriteEndArray();
            }
            json.WriteEndArray();
        }
        json.WriteEndObject();
    }

    /// <summary>
    /// How many ids the model's own vocabulary has: up to the last token that is not an added one, or that a merge makes. Added tokens
    /// behind it are numbered on by the library, which is the same as long as there are no holes; otherwise they stand in it, too.
    /// </summary>
    private static int ModelTokens(TokenizerContent content)
    {
        var ids = content.Ids();
        HashSet<string> addedOnly = [.. content.AllAddedTokens().Select(token => token.Text)];
        addedOnly.ExceptWith(content.Merges.Select(merge => merge.Replace(" ", "")));
        int size = ids.Where(token => !addedOnly.Contains(token.Key)).Select(token => token.Value + 1).DefaultIfEmpty(0).Max();
        return ids.Count == ids.Values.Max() + 1 ? size : content.Vocabulary.Length;
    }

    /// <summary>Begins an object, a member or an element, that says its type; the caller ends it.</summary>
    private static void WriteType(Utf8JsonWriter json, string? name, string type)
    {
        if (name is null)
            json.WriteStartObject();
        else
            json.WriteStartObject(name);
        json.WriteString("type", type);
    }

    /// <summary>No step as null, one as itself, several as a Sequence.</summary>
    private static void WriteSequence(Utf8JsonWriter json, string name, string members, params Action[] steps)
    {
        if (steps.Length == 0)
            json.WriteNull(name);
        else if (steps.Length == 1)
        {
            json.WritePropertyName(name);
            steps[0]();
        }
        else
        {
            WriteType(json, name, "Sequence");
            json.WriteStartArray(members);
            foreach (Action step in steps)
                step();
            json.WriteEndArray();
            json.WriteEndObject();
        }
    }
}
