using System.Text.Json;

namespace ML.Rlhf;

/// <summary>
/// Reads the <c>tokenizer.json</c> of the <c>tokenizers</c> library. What it does to a text is either done here exactly so, or refused
/// by name: a part that was passed over would silently give other ids.
/// </summary>
internal static class TokenizerJsonReader
{
    /// <summary>All that the file says; the end of text is still to be chosen.</summary>
    /// <exception cref="FormatException">The file is damaged, or has a part that is not supported; the message names it.</exception>
    public static TokenizerContent Read(JsonElement root)
    {
        JsonElement model = root.Member("model") ?? throw new FormatException("It has no \"model\".");
        AddedToken[] added = [.. root.Items("added_tokens").Select(ReadAddedToken)];
        var (before, after) = AroundTexts(root.Member("post_processor"));
        var content = new TokenizerContent
        {
            Vocabulary = Vocabulary(Tokens(model), added),
            SpecialTokens = added.Where(token => token.Special).ToDictionary(token => token.Text, token => token.Id),
            AddedTokens = added.Where(token => !token.IsPlain).ToArray() is { Length: > 0 } listed ? listed : null,
            BeginningOfText = before,
            AfterText = after,
        };
        return TypeOf(model, "model") switch
        {
            "BPE" when IsByteLevel(root) => ReadByteLevelBpe(root, model, content),
            "BPE" => ReadSentencePieceBpe(root, model, content),
            "WordPiece" => ReadWordPiece(root, model, content),
            var other => throw Unsupported("model", other, "BPE, WordPiece"),
        };
    }

    private static AddedToken ReadAddedToken(JsonElement token) => new(
        token.Text("content") ?? throw new FormatException("An added token has no \"content\"."),
        token.Member("id")?.AsId("id") ?? throw new FormatException("An added token has no \"id\"."),
        token.Flag("special") ?? false,
        token.Flag("single_word") ?? false,
        token.Flag("lstrip") ?? false,
        token.Flag("rstrip") ?? false,
        token.Flag("normalized") ?? false);

    private static IEnumerable<(string Text, int Id)> Tokens(JsonElement model) =>
        model.Member("vocab")?.Ids("vocab") ?? throw new FormatException("Its model has no \"vocab\".");

    /// <summary>
    /// The text of each id, null for an id without a token. The models of some tokenizers have a few such ids; a tokenizer that has more
    /// of them than tokens is damaged, and would only ask for memory.
    /// </summary>
    /// <exception cref="FormatException">Two tokens have one id, one token two, or an id is far beyond the number of tokens.</exception>
    public static string?[] Vocabulary(IEnumerable<(string Text, int Id)> tokens, IEnumerable<AddedToken> added)
    {
        var ids = new Dictionary<string, int>();
        foreach (var (text, id) in tokens.Concat(added.Select(token => (token.Text, token.Id))))
        {
            if (!ids.TryAdd(text, id) && ids[text] != id)
                throw new FormatException($"Token '{text}' has two ids, {ids[text]} and {id}.");
        }
        int largest = ids.Values.DefaultIfEmpty(-1).Max();
        if (largest >= 2L * ids.Count + 1024)
            throw new FormatException($"There are {ids.Count} tokens, and one has id {largest}: the ids have too many holes.");
        var vocabulary = new string?[largest + 1];
        foreach (var (text, id) in ids)
        {
            if (vocabulary[id] is { } other)
                throw new FormatException($"Tokens '{other}' and '{text}' have the same id {id}.");
            vocabulary[id] = text;
        }
        return vocabulary;
    }

    /// <summary>The special tokens that the post-processor puts before and behind every text.</summary>
    private static (string? Before, string? After) AroundTexts(JsonElement? postProcessor)
    {
        foreach (JsonElement step in Steps(postProcessor, "processors"))
        {
            string type = TypeOf(step, "post_processor");
            if (type is "BertProcessing" or "RobertaProcessing")
                return (step.Items("cls").FirstOrDefault().AsText("cls"), step.Items("sep").FirstOrDefault().AsText("sep"));
            if (type == "TemplateProcessing")
            {
                string?[] parts = [.. step.Items("single").Select(part => part.Member("SpecialToken")?.Text("id"))];
                int text = Array.IndexOf(parts, null);
                if (parts.Length > 3 || text is not (0 or 1) || parts.Count(part => part is null) != 1)
                    throw Unsupported("post_processor", Describe(type, step),
                        "a template of at most one token before and one behind the text");
                return (text == 1 ? parts[0] : null, text + 1 < parts.Length ? parts[^1] : null);
            }
            if (type != "ByteLevel") // which changes offsets only
                throw Unsupported("post_processor", type, "TemplateProcessing, BertProcessing, RobertaProcessing, ByteLevel");
        }
        return (null, null);
    }

    // ---- Byte-level BPE: GPT-2, Llama 3, Qwen ----

    /// <summary>Whether bytes are written in GPT-2's alphabet: the pre-tokenizer that does so decides.</summary>
    private static bool IsByteLevel(JsonElement root) =>
        Steps(root.Member("pre_tokenizer"), "pretokenizers").Any(step => TypeOf(step, "pre_tokenizer") == "ByteLevel");

    private static TokenizerContent ReadByteLevelBpe(JsonElement root, JsonElement model, TokenizerContent content)
    {
        CheckBpeOptions(model);
        if (model.Flag("byte_fallback") == true)
            throw Unsupported("model", "byte_fallback with byte-level tokens", "one of both");
        foreach (JsonElement step in Steps(root.Member("decoder"), "decoders"))
        {
            if (TypeOf(step, "decoder") is var decoder and not "ByteLevel")
                throw Unsupported("decoder", decoder, "ByteLevel");
        }
        ByteLevelRules rules = ReadPreTokenizer(root.Member("pre_tokenizer")) with
        {
            Normalization = ReadUnicodeForm(root),
            WholePieces = model.Flag("ignore_merges") ?? false,
        };
        return content with
        {
            Kind = TokenizerKind.ByteLevelBpe,
            Merges = [.. model.Items("merges").Select(ReadMerge)],
            ByteLevel = rules.IsDefault ? null : rules,
        };
    }

    private static void CheckBpeOptions(JsonElement model)
    {
        if (model.Member("dropout") is { } dropout && !(dropout.ValueKind == JsonValueKind.Number && dropout.GetDouble() == 0))
            throw Unsupported("model", "dropout", "none");
        foreach (string name in new[] { "continuing_subword_prefix", "end_of_word_suffix" })
        {
            if (model.Text(name) is { Length: > 0 } value)
                throw Unsupported("model", $"{name} '{value}'", "none");
        }
    }

    /// <summary>A pair of tokens; older files have them in one text, with a space between.</summary>
    private static string ReadMerge(JsonElement merge)
    {
        if (merge.ValueKind == JsonValueKind.String)
            return merge.AsText("merges");
        if (merge.ValueKind != JsonValueKind.Array || merge.GetArrayLength() != 2)
            throw new FormatException($"\"merges\" has {merge.GetRawText()}, which is no pair of tokens.");
        string left = merge[0].AsText("merges"), right = merge[1].AsText("merges");
        return left.Contains(' ') || right.Contains(' ')
            ? throw new FormatException($"\"merges\" joins '{left}' and '{right}': a token with a space cannot be merged.")
            : $"{left} {right}";
    }

    private static UnicodeForm ReadUnicodeForm(JsonElement root)
    {
        string[] types = [.. Steps(root.Member("normalizer"), "normalizers").Select(step => TypeOf(step, "normalizer"))];
        return types switch
        {
            [] => UnicodeForm.None,
            ["NFC"] => UnicodeForm.Nfc,
            ["NFD"] => UnicodeForm.Nfd,
            _ => throw Unsupported("normalizer", string.Join(", ", types), "NFC, NFD"),
        };
    }

    private static ByteLevelRules ReadPreTokenizer(JsonElement? preTokenizer)
    {
        var splits = new List<SplitRule>();
        bool prefixSpace = false, bytes = false;
        foreach (JsonElement step in Steps(preTokenizer, "pretokenizers"))
        {
            string type = TypeOf(step, "pre_tokenizer");
            if (bytes)
                throw Unsupported("pre_tokenizer", $"{type} after ByteLevel", "ByteLevel as the last one");
            switch (type)
            {
                case "Split":
                    splits.Add(ReadSplit(step));
                    break;
                case "Digits":
                    splits.Add(new SplitRule(step.Flag("individual_digits") == true ? @"\p{N}" : @"\p{N}+"));
                    break;
                case "ByteLevel":
                    bytes = true;
                    prefixSpace = step.Flag("add_prefix_space") ?? true;
                    if (prefixSpace && splits.Count > 0)
                        throw Unsupported("pre_tokenizer", "add_prefix_space for every piece", "add_prefix_space for the text");
                    if (step.Flag("use_regex") ?? true)
                        splits.Add(SplitRule.Gpt2);
                    break;
                default:
                    throw Unsupported("pre_tokenizer", type, "Split, Digits, ByteLevel");
            }
        }
        return new ByteLevelRules { PrefixSpace = prefixSpace, Splits = [.. splits] };
    }

    private static SplitRule ReadSplit(JsonElement step)
    {
        JsonElement? pattern = step.Member("pattern");
        string expression = pattern?.Text("Regex")
            ?? (pattern?.Text("String") is { Length: > 0 } text ? EscapeForRegex(text)
                : throw new FormatException("A Split has no \"pattern\"."));
        bool inverted = step.Flag("invert") ?? false;
        return (step.Text("behavior"), inverted) switch
        {
            ("Isolated", _) => new SplitRule(expression),
            ("Removed", true) => new SplitRule(expression, KeepRest: false),
            var (behavior, _) => throw Unsupported("pre_tokenizer",
                $"Split with behavior {behavior}{(inverted ? ", inverted" : "")}", "behavior Isolated, or Removed and inverted"),
        };
    }

    private static string EscapeForRegex(string text) => string.Concat(text.Select(unit => $"\\u{(int)unit:x4}"));

    // ---- SentencePiece-style BPE: Llama 2, Mistral, Gemma ----

    private static TokenizerContent ReadSentencePieceBpe(JsonElement root, JsonElement model, TokenizerContent content)
    {
        CheckBpeOptions(model);
        var (form, replacesSpaces, prepends) = ReadSpacingNormalizer(root.Member("normalizer"));
        var (metaspacePrefix, splitWords) = ReadMetaspace(root.Member("pre_tokenizer"), replacesSpaces);
        if (prepends && metaspacePrefix is not null || prepends && !replacesSpaces || metaspacePrefix is null && !replacesSpaces)
            throw Unsupported("normalizer and pre_tokenizer", "another way to treat spaces",
                "Prepend with Replace, Replace alone, and Metaspace; each of them with ▁");
        var (leading, decodesBytes) = ReadSpacingDecoder(root.Member("decoder"));
        return content with
        {
            Kind = TokenizerKind.SentencePieceBpe,
            Merges = [.. model.Items("merges").Select(ReadMerge)],
            SentencePiece = new SentencePieceRules
            {
                Normalization = form,
                Prefix = metaspacePrefix ?? (prepends ? PrefixScheme.Unconditional : PrefixScheme.Never),
                Leading = leading,
                SplitWords = splitWords,
                WholePieces = model.Flag("ignore_merges") ?? false,
                ByteFallback = model.Flag("byte_fallback") ?? false,
                DecodesBytes = decodesBytes,
                UnknownToken = model.Text("unk_token"),
                FuseUnknown = model.Flag("fuse_unk") ?? false,
            },
        };
    }

    private static (UnicodeForm Form, bool ReplacesSpaces, bool Prepends) ReadSpacingNormalizer(JsonElement? normalizer)
    {
        UnicodeForm form = UnicodeForm.None;
        bool replaces = false, prepends = false;
        foreach (JsonElement step in Steps(normalizer, "normalizers"))
        {
            string type = TypeOf(step, "normalizer");
            if (type is "NFC" or "NFD" && form == UnicodeForm.None && !replaces && !prepends)
                form = type == "NFC" ? UnicodeForm.Nfc : UnicodeForm.Nfd;
            else if (type == "Replace" && IsSpaceReplacement(step, " ", "▁"))
                replaces = true;
            else if (type == "Prepend" && step.Text("prepend") == "▁")
                prepends = true;
            else
                throw Unsupported("normalizer", Describe(type, step), "NFC or NFD as the first, Prepend of ▁, Replace of a space by ▁");
        }
        return (form, replaces, prepends);
    }

    private static (PrefixScheme? Prefix, bool SplitWords) ReadMetaspace(JsonElement? preTokenizer, bool replacesSpaces)
    {
        JsonElement[] steps = [.. Steps(preTokenizer, "pretokenizers")];
        if (steps.Length == 0)
            return (null, false);
        string type = TypeOf(steps[0], "pre_tokenizer");
        if (type == "Split" && replacesSpaces && steps.Length == 1 && steps[0].Member("pattern")?.Text("String") == " ")
            return (null, false); // Gemma: there is no space left to split at
        if (type != "Metaspace" || steps.Length > 1 || (steps[0].Text("replacement") ?? "▁") != "▁")
            throw Unsupported("pre_tokenizer", Describe(type, steps[0]), "Metaspace with ▁, or none");

        bool prefixes = steps[0].Flag("add_prefix_space") ?? true; // files of the first years have this instead of the scheme
        PrefixScheme? scheme = steps[0].Text("prepend_scheme") switch
        {
            "first" => PrefixScheme.First,
            "always" => PrefixScheme.Always,
            "never" => PrefixScheme.Never,
            null => prefixes ? PrefixScheme.Always : PrefixScheme.Never,
            var other => throw Unsupported("pre_tokenizer", $"Metaspace with prepend_scheme {other}", "first, always, never"),
        };
        return (scheme, steps[0].Flag("split") ?? true);
    }

    private static (LeadingSpace Leading, bool DecodesBytes) ReadSpacingDecoder(JsonElement? decoder)
    {
        LeadingSpace leading = LeadingSpace.Keep;
        bool bytes = false, spaces = false;
        foreach (JsonElement step in Steps(decoder, "decoders"))
        {
            switch (TypeOf(step, "decoder"))
            {
                case "Metaspace" when (step.Text("replacement") ?? "▁") == "▁":
                    bool keeps = step.Text("prepend_scheme") is { } scheme ? scheme == "never" : step.Flag("add_prefix_space") == false;
                    (spaces, leading) = (true, keeps ? LeadingSpace.Keep : LeadingSpace.DropFromFirstToken);
                    break;
                case "Replace" when IsSpaceReplacement(step, "▁", " "):
                    spaces = true;
                    break;
                case "ByteFallback":
                    bytes = true;
                    break;
                case "Fuse":
                    break;
                case "Strip" when step.Text("content") == " " && step.Member("start")?.AsId("start") is 0 or 1
                    && step.Member("stop")?.AsId("stop") is 0 && spaces:
                    leading = step.Member("start")!.Value.GetInt32() == 1 ? LeadingSpace.DropOne : leading;
                    break;
                case var other:
                    throw Unsupported("decoder", Describe(other, step),
                        "Metaspace, Replace of ▁ by a space, ByteFallback, Fuse, Strip of one space at the start");
            }
        }
        return spaces ? (leading, bytes) : throw Unsupported("decoder", "one that leaves ▁ as it is", "Metaspace or Replace");
    }

    private static bool IsSpaceReplacement(JsonElement step, string from, string to) =>
        step.Member("pattern")?.Text("String") == from && step.Text("content") == to;

    // ---- WordPiece: BERT ----

    private static TokenizerContent ReadWordPiece(JsonElement root, JsonElement model, TokenizerContent content)
    {
        JsonElement normalizer = OnlyStep(root, "normalizer", "BertNormalizer");
        OnlyStep(root, "pre_tokenizer", "BertPreTokenizer");
        JsonElement decoder = OnlyStep(root, "decoder", "WordPiece");
        string prefix = model.Text("continuing_subword_prefix") ?? "##";
        if ((decoder.Text("prefix") ?? prefix) != prefix)
            throw Unsupported("decoder", $"WordPiece with prefix '{decoder.Text("prefix")}'", $"the prefix of the model, '{prefix}'");
        bool lowercase = normalizer.Flag("lowercase") ?? true;
        return content with
        {
            Kind = TokenizerKind.WordPiece,
            WordPiece = new WordPieceRules
            {
                CleanText = normalizer.Flag("clean_text") ?? true,
                SeparateChinese = normalizer.Flag("handle_chinese_chars") ?? true,
                StripAccents = normalizer.Flag("strip_accents") ?? lowercase,
                Lowercase = lowercase,
                UnknownToken = model.Text("unk_token") ?? "[UNK]",
                ContinuingPrefix = prefix,
                MaximumWordLength = model.Member("max_input_chars_per_word")?.AsId("max_input_chars_per_word") ?? 100,
                TidiesDecoded = decoder.Flag("cleanup") ?? true,
            },
        };
    }

    private static JsonElement OnlyStep(JsonElement root, string part, string supported)
    {
        JsonElement[] steps = [.. Steps(root.Member(part), part switch
        {
            "normalizer" => "normalizers", "pre_tokenizer" => "pretokenizers", _ => "decoders",
        })];
        string found = steps.Length == 0 ? "none" : string.Join(", ", steps.Select(step => TypeOf(step, part)));
        return found == supported ? steps[0] : throw Unsupported(part, found, supported);
    }

    // ---- Parts of all kinds ----

    private static string Describe(string type, JsonElement step) =>
        step.GetRawText() is { Length: < 200 } json ? $"{type}, as {json}" : type;

    /// <summary>A part, or the parts of which a Sequence consists, however nested; none where the part is missing.</summary>
    private static IEnumerable<JsonElement> Steps(JsonElement? part, string members)
    {
        if (part is not { } step)
            return [];
        return step.Text("type") == "Sequence" ? step.Items(members).SelectMany(inner => Steps(inner, members)) : [step];
    }

    private static string TypeOf(JsonElement part, string name) =>
        part.Text("type") ?? (name == "model" && part.Member("merges") is not null
            ? "BPE" // files of the first years do not say it
            : throw new FormatException($"A part of \"{name}\" has no \"type\"."));

    private static FormatException Unsupported(string part, string found, string supported) => new(
        $"Its {part} is {found}, which is not supported. Supported: {supported}.");
}
