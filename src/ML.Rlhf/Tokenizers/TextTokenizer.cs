using System.Runtime.InteropServices;
using System.Text;
using Microsoft.ML.Tokenizers;

namespace ML.Rlhf;

/// <summary>
/// The tokenizer of a language model: how its text is cut into tokens, and put together again. It is saved with the model, and two
/// models can pass tokens to each other only when their tokenizers are equal (<see cref="Equals(TextTokenizer)"/>).
/// </summary>
/// <remarks>
/// <para>
/// Made by <see cref="TokenizerCatalog"/> or read by <see cref="Load"/>; it never changes, and may be used from several threads.
/// </para>
/// <para>There is no padding token: rows of different lengths are told apart by their lengths, not by a token.</para>
/// <para>A .NET string can hold half a surrogate pair, which has no meaning as text; it is read as U+FFFD.</para>
/// </remarks>
public sealed class TextTokenizer : IEquatable<TextTokenizer>
{
    internal const string DefaultEndOfText = "<|endoftext|>";
    internal static ReadOnlySpan<byte> DefaultEndOfTextUtf8 => "<|endoftext|>"u8;

    private readonly TokenTexts _texts;
    private readonly AddedTokenFinder _addedTokens;
    private readonly AddedTokenFinder? _normalizedTokens; // those that are looked for in normalized text
    private readonly TextNormalizer? _normalizer;
    private readonly string _prefix; // of every stretch of text
    private readonly PieceByPieceTokenizer? _pieceByPiece; // of a byte-level BPE

    /// <exception cref="FormatException">The content contradicts itself.</exception>
    internal TextTokenizer(TokenizerContent content)
    {
        content.Check();
        Content = content;
        _texts = new TokenTexts(content);
        EndOfText = content.SpecialTokens[content.EndOfText];
        BeginningOfText = content.BeginningOfText is { } beginning ? content.SpecialTokens[beginning] : null;
        Tokenizer = content.Kind switch
        {
            TokenizerKind.Bytes => new ByteTokenizer(),
            TokenizerKind.Characters => new CharacterTokenizer([.. content.Vocabulary.OfType<string>()], content.ReplaceUnknown),
            TokenizerKind.WordPiece => content.WordPiece!.CreateTokenizer(content),
            TokenizerKind.SentencePieceBpe => new SentencePieceBpe(content, _texts),
            _ => CreateByteLevelBpe(content, out _pieceByPiece),
        };

        _normalizer = content.ByteLevel?.CreateNormalizer() ?? content.SentencePiece?.CreateNormalizer()
            ?? content.WordPiece?.CreateNormalizer();
        _prefix = content.ByteLevel is { PrefixSpace: true } ? " " : "";

        var tokens = content.AllAddedTokens().ToLookup(token => token.Normalized && _normalizer is not null);
        _addedTokens = new AddedTokenFinder(tokens[false]);
        if (tokens[true].Any())
            _normalizedTokens = new AddedTokenFinder(tokens[true].Select(
                token => token with { Text = _normalizer!.Normalize(token.Text) }));
    }

    private static Tokenizer CreateByteLevelBpe(TokenizerContent content, out PieceByPieceTokenizer pieceByPiece)
    {
        ByteLevelRules rules = content.ByteLevel ?? new ByteLevelRules();
        var tokens = content.Vocabulary.Index().Where(token => token.Item is not null)
            .Select(token => KeyValuePair.Create(token.Item!, token.Index));
        var merging = BpeTokenizer.Create(new BpeOptions(tokens)
        {
            Merges = content.Merges,
            ByteLevel = true,
            PreTokenizer = rules.CreatePreTokenizer(),
            Normalizer = rules.CreatePrefixingNormalizer(),
        });
        HashSet<string> added = [.. content.AllAddedTokens().Select(token => token.Text)];
        pieceByPiece = new PieceByPieceTokenizer(
            merging, content, rules.WholePieces ? tokens.Where(token => !added.Contains(token.Key)).ToDictionary() : null);
        return rules.WholePieces ? pieceByPiece : merging;
    }

    /// <summary>Ids 0 to 255 are bytes, 256 is the end of text.</summary>
    internal static TextTokenizer FromBytes() => new(new TokenizerContent
    {
        Kind = TokenizerKind.Bytes,
        Vocabulary = [.. Enumerable.Range(0, 256).Select(value => ByteAlphabet.Symbol((byte)value).ToString()), DefaultEndOfText],
        SpecialTokens = new() { [DefaultEndOfText] = ByteTokenizer.EndOfText },
        EndOfText = DefaultEndOfText,
    });

    /// <summary>One id for each character, in the order given; the last id is the end of text.</summary>
    internal static TextTokenizer FromCharacters(IReadOnlyList<string> characters, bool replaceUnknown) => new(new TokenizerContent
    {
        Kind = TokenizerKind.Characters,
        Vocabulary = [.. characters, DefaultEndOfText],
        SpecialTokens = new() { [DefaultEndOfText] = characters.Count },
        EndOfText = DefaultEndOfText,
        ReplaceUnknown = replaceUnknown,
    });

    /// <summary>A byte-level BPE from its parts, as GPT-2's <c>vocab.json</c> and <c>merges.txt</c> have them.</summary>
    /// <param name="vocabulary">The text of each id: special tokens as they are, the others written in <see cref="ByteAlphabet"/>.</param>
    /// <param name="merges">The two tokens of each merge with a space between them, the first learned first.</param>
    /// <param name="specialTokens">Text and id of each special token.</param>
    /// <param name="endOfText">Which of them ends a text.</param>
    /// <exception cref="FormatException">The parts contradict each other.</exception>
    internal static TextTokenizer FromByteLevelBpe(
        IEnumerable<string> vocabulary, IEnumerable<string> merges, IReadOnlyDictionary<string, int> specialTokens, string endOfText) =>
        new(new TokenizerContent
        {
            Kind = TokenizerKind.ByteLevelBpe,
            Vocabulary = [.. vocabulary],
            Merges = [.. merges],
            SpecialTokens = new(specialTokens),
            EndOfText = endOfText,
        });

    /// <summary>
    /// The tokenizer as <c>Microsoft.ML.Tokenizers</c> knows it: for token texts, offsets, counting and trimming to a number of tokens.
    /// It does not recognize special tokens in text.
    /// </summary>
    public Tokenizer Tokenizer { get; }

    /// <summary>All that the tokenizer consists of.</summary>
    internal TokenizerContent Content { get; }

    /// <summary>How text is cut into tokens.</summary>
    public TokenizerKind Kind => Content.Kind;

    /// <summary>The number of tokens; ids run from 0 to one less.</summary>
    public int VocabularySize => _texts.Count;

    /// <summary>
    /// The id of the token that ends a text: it stands between documents when a model is trained, and generation stops at it.
    /// <see cref="Encode(ReadOnlySpan{char}, bool)"/> does not append it.
    /// </summary>
    public int EndOfText { get; }

    /// <summary>
    /// The id of the token that every text begins with in the data that a pretrained model learned from, such as <c>&lt;s&gt;</c> or
    /// <c>[CLS]</c>; null for a tokenizer that has none. <see cref="Encode(ReadOnlySpan{char}, bool)"/> does not prepend it; models and
    /// trainers begin prompts and documents with it.
    /// </summary>
    public int? BeginningOfText { get; }

    /// <summary>Text and id of the tokens that stand for no text; the end of text is one of them.</summary>
    public IReadOnlyDictionary<string, int> SpecialTokens => Content.SpecialTokens;

    /// <summary>The tokens of a text.</summary>
    /// <param name="text">Any text; an empty one has no tokens.</param>
    /// <param name="recognizeSpecialTokens">
    /// Whether the text <c>&lt;|endoftext|&gt;</c> means the end of text. False by default, which makes it ordinary tokens:
    /// otherwise whoever writes a prompt could end it, or speak in another's name. True only for text that your own program put together.
    /// </param>
    /// <returns>The ids, a new array.</returns>
    /// <exception cref="ArgumentException">
    /// A character tokenizer does not know a character. The message names it, its position and what to do.
    /// </exception>
    public int[] Encode(ReadOnlySpan<char> text, bool recognizeSpecialTokens = false)
    {
        var ids = new List<int>();
        Encode(text, ids, recognizeSpecialTokens);
        return [.. ids];
    }

    /// <summary>Appends the tokens of a text to a list.</summary>
    /// <inheritdoc cref="Encode(ReadOnlySpan{char}, bool)"/>
    /// <param name="text">Any text; an empty one has no tokens.</param>
    /// <param name="destination">Where the ids are added.</param>
    /// <param name="recognizeSpecialTokens">Whether the text <c>&lt;|endoftext|&gt;</c> means the end of text. False by default.</param>
    public void Encode(ReadOnlySpan<char> text, List<int> destination, bool recognizeSpecialTokens = false)
    {
        ArgumentNullException.ThrowIfNull(destination);
        ReadOnlySpan<char> source = WellFormedText.Of(text);
        foreach (Section section in Sections(source, _ => recognizeSpecialTokens))
        {
            if (section.Token is { } token)
                destination.Add(token.Id);
            else if (Tokenizer is SentencePieceBpe sentencePiece)
                destination.AddRange(sentencePiece.Encode(section.In(source), section.IsAtStart).Select(token => token.Id));
            else
            {
                ReadOnlySpan<char> prefixed = WithPrefix(section.In(source));
                destination.AddRange(TokenizerFor(prefixed).EncodeToIds(prefixed, considerNormalization: false));
            }
        }
    }

    /// <summary>The tokens of a text, and which part of it each stands for.</summary>
    /// <inheritdoc cref="Encode(ReadOnlySpan{char}, bool)"/>
    /// <returns>
    /// Ids, texts and offsets in UTF-16 units. Tokens that are parts of one character have the offset of the whole character; one that
    /// stands for nothing in the text has an empty one.
    /// </returns>
    internal List<EncodedToken> EncodeToTokens(ReadOnlySpan<char> text, bool recognizeSpecialTokens = false) =>
        EncodeToTokens(text, _ => recognizeSpecialTokens);

    /// <summary>The same for a text in which special tokens may stand at some places only.</summary>
    /// <inheritdoc cref="EncodeToTokens(ReadOnlySpan{char}, bool)"/>
    /// <param name="text">Any text.</param>
    /// <param name="recognizeSpecialTokens">Whether what stands at a place of the text, in UTF-16 units, may be a special token.</param>
    internal List<EncodedToken> EncodeToTokens(ReadOnlySpan<char> text, Predicate<Range> recognizeSpecialTokens)
    {
        var tokens = new List<EncodedToken>();
        ReadOnlySpan<char> source = WellFormedText.Of(text);
        foreach (Section section in Sections(source, recognizeSpecialTokens))
        {
            if (section.Token is { } added)
                tokens.Add(new EncodedToken(added.Id, added.Text, section.OriginOf(0..0)));
            else if (Tokenizer is SentencePieceBpe sentencePiece)
                tokens.AddRange(sentencePiece.Encode(section.In(source), section.IsAtStart).Select(token => Placed(token, section, 0)));
            else
            {
                ReadOnlySpan<char> part = section.In(source), prefixed = WithPrefix(part);
                int shift = prefixed.Length - part.Length;
                var encoded = TokenizerFor(prefixed).EncodeToTokens(prefixed, out _, considerNormalization: false);
                tokens.AddRange(encoded.Select(token => Placed(token, section, shift)));
            }
        }
        return tokens;

        // A prefix goes with the first character.
        static EncodedToken Placed(EncodedToken token, Section section, int shift) => new(token.Id, token.Value,
            section.OriginOf(Math.Max(0, token.Offset.Start.Value - shift)..Math.Max(shift, token.Offset.End.Value - shift)));
    }

    /// <summary>A text that may have a long piece is encoded piece by piece, which is slower for all other texts.</summary>
    private Tokenizer TokenizerFor(ReadOnlySpan<char> text) =>
        text.Length > 20 * PieceByPieceTokenizer.LongPiece && _pieceByPiece is not null ? _pieceByPiece : Tokenizer;

    private ReadOnlySpan<char> WithPrefix(ReadOnlySpan<char> text) => text.StartsWith(_prefix) ? text : _prefix + text.ToString();

    /// <summary>What is encoded on its own: a stretch of text, or an added token.</summary>
    /// <param name="Place">Where it stands in the text, or in what a normalizer made of it.</param>
    /// <param name="Token">The added token; null for text.</param>
    /// <param name="Normalized">What the normalizer made.</param>
    private readonly record struct Section(Range Place, AddedToken? Token, NormalizedText? Normalized)
    {
        public bool IsAtStart => Place.Start.Value == 0 && Normalized is not { IsAtStart: false };

        public ReadOnlySpan<char> In(ReadOnlySpan<char> text) => (Normalized is null ? text : Normalized.Text)[Place];

        /// <summary>Where a part of the section stands in the text; an added token has no parts.</summary>
        public Range OriginOf(Range part)
        {
            int start = Place.Start.Value;
            Range place = Token is null ? (start + part.Start.Value)..(start + part.End.Value) : Place;
            return Normalized is null ? place : Normalized.OriginOf(place);
        }
    }

    /// <summary>
    /// Cuts a text at added tokens: at those that are looked for as they stand, then, inside what the normalizer makes of each rest, at
    /// those that are looked for there.
    /// </summary>
    private List<Section> Sections(ReadOnlySpan<char> text, Predicate<Range> special)
    {
        var sections = new List<Section>();
        Cut(text, _addedTokens, special, normalized: null, sections);
        if (_normalizer is null)
            return sections;

        var normalizedSections = new List<Section>();
        foreach (Section section in sections)
        {
            if (section.Token is not null)
            {
                normalizedSections.Add(section);
                continue;
            }
            var normalized = new NormalizedText(_normalizer, text[section.Place].ToString(), section.Place.Start.Value);
            Cut(normalized.Text, _normalizedTokens, place => special(normalized.OriginOf(place)), normalized, normalizedSections);
        }
        return normalizedSections;
    }

    private static void Cut(
        ReadOnlySpan<char> text, AddedTokenFinder? tokens, Predicate<Range> special, NormalizedText? normalized, List<Section> sections)
    {
        int end = 0;
        while (tokens?.FindNext(text, end, special, out Range place) is { } token)
        {
            AddText(end..place.Start);
            sections.Add(new Section(place, token, normalized));
            end = place.End.Value;
        }
        AddText(end..text.Length);

        void AddText(Range place)
        {
            if (!place.Start.Equals(place.End))
                sections.Add(new Section(place, null, normalized));
        }
    }

    /// <summary>The text of tokens. Bytes that form no character become U+FFFD.</summary>
    /// <param name="tokenIds">Ids from 0 to <see cref="VocabularySize"/> − 1.</param>
    /// <param name="includeSpecialTokens">Whether to write special tokens out; they are left out by default.</param>
    /// <exception cref="ArgumentOutOfRangeException">An id is not in the vocabulary.</exception>
    public string Decode(ReadOnlySpan<int> tokenIds, bool includeSpecialTokens = false)
    {
        var bytes = new List<byte>(4 * tokenIds.Length);
        bool first = true;
        foreach (int id in tokenIds)
            bytes.AddRange(BytesOf(id, ref first, includeSpecialTokens));
        return Encoding.UTF8.GetString(CollectionsMarshal.AsSpan(bytes));
    }

    /// <summary>A decoder for tokens that arrive one at a time.</summary>
    public StreamingDecoder CreateStreamingDecoder() => new(this);

    /// <summary>What a token stands for, in UTF-8; nothing for a special token.</summary>
    /// <param name="tokenId">The token.</param>
    /// <param name="first">Whether no token with a text stood before it; kept true.</param>
    /// <param name="includeSpecialTokens">Whether a special token stands for how it is written.</param>
    internal ReadOnlySpan<byte> BytesOf(int tokenId, ref bool first, bool includeSpecialTokens = false)
    {
        if ((uint)tokenId >= (uint)VocabularySize)
            throw new ArgumentOutOfRangeException(nameof(tokenId), tokenId,
                $"Token ids of this tokenizer run from 0 to {VocabularySize - 1}. These tokens come from another tokenizer or model.");
        if (_texts.IsSilent(tokenId, includeSpecialTokens))
            return [];
        ReadOnlySpan<byte> bytes = _texts.Of(tokenId, first);
        first = false;
        return bytes;
    }

    /// <summary>The same tokenizer with more ids, as the models have that round the size of their vocabulary up.</summary>
    /// <param name="vocabularySize">The number of ids. Those beyond the tokens stand for no text, and no text has them.</param>
    /// <exception cref="ArgumentOutOfRangeException">There are more tokens than that.</exception>
    internal TextTokenizer PaddedTo(int vocabularySize)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(vocabularySize, VocabularySize);
        return vocabularySize == VocabularySize ? this : new TextTokenizer(
            Content with { Vocabulary = [.. Content.Vocabulary, .. new string?[vocabularySize - VocabularySize]] });
    }

    /// <summary>Writes the tokenizer as one small JSON document, which has all that <see cref="Load"/> needs.</summary>
    /// <param name="stream">Left open, positioned after the document.</param>
    public void Save(Stream stream)
    {
        ArgumentNullException.ThrowIfNull(stream);
        Content.Write(stream);
    }

    /// <summary>
    /// Writes the tokenizer into a folder in the layout of Hugging Face: <c>tokenizer.json</c> for the tokenizers library, and
    /// <c>tokenizer_config.json</c> for transformers. <see cref="TokenizerCatalog.FromPretrained"/> reads them.
    /// </summary>
    /// <param name="folder">Made if it does not exist; files of these names are replaced.</param>
    /// <exception cref="NotSupportedException">It is a tokenizer of characters, which that library does not have.</exception>
    public void SavePretrained(string folder)
    {
        ArgumentNullException.ThrowIfNull(folder);
        Directory.CreateDirectory(folder);
        TokenizerJsonWriter.Write(folder, Content);
    }

    /// <summary>Reads what <see cref="Save"/> wrote.</summary>
    /// <param name="stream">Read to its end and left open.</param>
    /// <exception cref="FormatException">
    /// The document is damaged, is something else, or was written by a newer version of this package; the message says which.
    /// </exception>
    public static TextTokenizer Load(Stream stream)
    {
        ArgumentNullException.ThrowIfNull(stream);
        return new TextTokenizer(TokenizerContent.Read(stream));
    }

    /// <summary>
    /// Whether two tokenizers are the same by content: the same kind, the same tokens under the same ids, and the same merges. Only then
    /// do the same ids mean the same text.
    /// </summary>
    public bool Equals(TextTokenizer? other) => other is not null && (ReferenceEquals(this, other) || Content.SameAs(other.Content));

    /// <inheritdoc/>
    public override bool Equals(object? obj) => Equals(obj as TextTokenizer);

    /// <inheritdoc/>
    public override int GetHashCode() => HashCode.Combine(Kind, VocabularySize, EndOfText, Content.Merges.Length);

    /// <summary>Kind and size, for logs and error messages: <c>byte-level BPE tokenizer of 4096 tokens</c>.</summary>
    public override string ToString()
    {
        string kind = Kind switch
        {
            TokenizerKind.Bytes => "byte",
            TokenizerKind.Characters => "character",
            TokenizerKind.SentencePieceBpe => "SentencePiece BPE",
            TokenizerKind.WordPiece => "WordPiece",
            _ => "byte-level BPE",
        };
        return $"{kind} tokenizer of {VocabularySize} tokens";
    }
}
