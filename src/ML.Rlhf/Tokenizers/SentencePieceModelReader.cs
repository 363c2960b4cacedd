using System.Buffers.Binary;
using System.Text;

namespace ML.Rlhf;

/// <summary>
/// Reads a <c>tokenizer.model</c>: the Protocol Buffers message ModelProto of SentencePiece, as far as it describes byte-pair encoding.
/// (<c>SentencePieceTokenizer</c> of Microsoft.ML.Tokenizers orders equal merges otherwise, and gives other ids for a row of spaces.)
/// </summary>
internal static class SentencePieceModelReader
{
    private enum PieceType { Normal = 1, Unknown, Control, UserDefined, Unused, Byte }

    private sealed record Piece(string Text, float Score, PieceType Type);

    /// <summary>All that the file says; the end of text is still to be chosen.</summary>
    /// <param name="model">The file.</param>
    /// <param name="prefix">Where a text gets a space of its own, if the model has one.</param>
    /// <exception cref="FormatException">The file is damaged, or has a part that is not supported; the message names it.</exception>
    public static TokenizerContent Read(ReadOnlySpan<byte> model, PrefixScheme prefix)
    {
        var pieces = new List<Piece>();
        Trainer trainer = default;
        Normalizer normalizer = new(CharacterMap: false, DummyPrefix: true, RemovesExtraSpaces: true, EscapesSpaces: true);
        foreach (Field field in Fields.Of(model))
        {
            switch (field.Number)
            {
                case 1:
                    pieces.Add(ReadPiece(field.BytesIn(model)));
                    break;
                case 2:
                    trainer = ReadTrainer(field.BytesIn(model));
                    break;
                case 3:
                    normalizer = ReadNormalizer(field.BytesIn(model), normalizer);
                    break;
            }
        }
        CheckSupported(pieces, trainer, normalizer);

        AddedToken[] special =
        [
            .. pieces.Index().Where(piece => piece.Item.Type is PieceType.Control or PieceType.Unknown)
                .Select(piece => new AddedToken(piece.Item.Text, piece.Index, Special: true)),
        ];
        return new TokenizerContent
        {
            Kind = TokenizerKind.SentencePieceBpe,
            Vocabulary = TokenizerJsonReader.Vocabulary(pieces.Index().Select(piece => (piece.Item.Text, piece.Index)), []),
            SpecialTokens = special.ToDictionary(token => token.Text, token => token.Id),
            Merges = Merges(pieces),
            SentencePiece = new SentencePieceRules
            {
                Prefix = normalizer.DummyPrefix ? prefix : PrefixScheme.Never,
                Leading = normalizer.DummyPrefix ? LeadingSpace.DropOne : LeadingSpace.Keep,
                ByteFallback = trainer.ByteFallback,
                DecodesBytes = trainer.ByteFallback,
                UnknownToken = pieces.Find(piece => piece.Type == PieceType.Unknown)?.Text,
                FuseUnknown = true,
            },
        };
    }

    private static void CheckSupported(List<Piece> pieces, Trainer trainer, Normalizer normalizer)
    {
        string? unsupported =
            pieces.Count == 0 ? "no pieces"
            : trainer.ModelType is 0 or 1 ? "the type unigram"
            : trainer.ModelType != 2 ? $"the type {trainer.ModelType switch { 3 => "word", 4 => "char", var other => other }}"
            : normalizer.CharacterMap ? "a normalization rule with a map of characters"
            : normalizer.RemovesExtraSpaces ? "the removal of extra spaces"
            : !normalizer.EscapesSpaces || trainer.SpacesAreSuffixes ? "another way to write spaces"
            : pieces.FirstOrDefault(piece => piece.Type is PieceType.UserDefined or PieceType.Unused) is { } odd
                ? $"the {(odd.Type == PieceType.Unused ? "unused" : "user-defined")} piece '{odd.Text}'"
            : null;
        if (unsupported is not null)
            throw new FormatException(
                $"It has {unsupported}, which is not supported: SentencePiece models of the type BPE with the normalization rule " +
                "identity are, as Llama 2 and Mistral have them. Convert it to a tokenizer.json (transformers does when it saves a " +
                "fast tokenizer).");
    }

    /// <summary>
    /// Every way to put a piece together from two others, the piece with the highest score first; in the order in which transformers
    /// writes them into a tokenizer.json.
    /// </summary>
    private static string[] Merges(List<Piece> pieces)
    {
        var ids = pieces.Index().Where(piece => piece.Item.Type == PieceType.Normal)
            .ToDictionary(piece => piece.Item.Text, piece => piece.Index);
        var merges = new List<(string Left, string Right, float Score)>();
        foreach (Piece piece in pieces.Where(piece => piece.Type == PieceType.Normal))
        {
            var ways = Enumerable.Range(1, piece.Text.Length - 1)
                .Select(i => (Left: piece.Text[..i], Right: piece.Text[i..], piece.Score))
                .Where(way => ids.ContainsKey(way.Left) && ids.ContainsKey(way.Right));
            merges.AddRange(ways.OrderBy(way => ids[way.Left]).ThenBy(way => ids[way.Right]));
        }
        return
        [
            .. merges.OrderByDescending(way => way.Score)
                .ThenByDescending(way => way.Left.EnumerateRunes().Count()).ThenByDescending(way => way.Right.EnumerateRunes().Count())
                .Select(way => $"{way.Left} {way.Right}"),
        ];
    }

    private static Piece ReadPiece(ReadOnlySpan<byte> message)
    {
        var piece = new Piece("", 0, PieceType.Normal);
        foreach (Field field in Fields.Of(message))
        {
            piece = field.Number switch
            {
                1 => piece with { Text = Text(field.BytesIn(message)) },
                2 => piece with { Score = BitConverter.Int32BitsToSingle((int)field.Value) },
                3 => piece with { Type = (PieceType)field.Value },
                _ => piece,
            };
        }
        bool valid = piece.Text.Length is > 0 and <= 128 && !piece.Text.Contains(' ')
            && Enum.IsDefined(piece.Type) && !float.IsNaN(piece.Score);
        return valid ? piece : throw new FormatException($"It has the piece '{piece.Text}' of type {piece.Type}, which is damaged.");
    }

    private readonly record struct Trainer(long ModelType, bool ByteFallback, bool SpacesAreSuffixes);

    private static Trainer ReadTrainer(ReadOnlySpan<byte> message)
    {
        Trainer trainer = default;
        foreach (Field field in Fields.Of(message))
        {
            trainer = field.Number switch
            {
                3 => trainer with { ModelType = field.Value },
                24 => trainer with { SpacesAreSuffixes = field.Value != 0 },
                35 => trainer with { ByteFallback = field.Value != 0 },
                _ => trainer,
            };
        }
        return trainer;
    }

    private readonly record struct Normalizer(bool CharacterMap, bool DummyPrefix, bool RemovesExtraSpaces, bool EscapesSpaces);

    private static Normalizer ReadNormalizer(ReadOnlySpan<byte> message, Normalizer normalizer)
    {
        foreach (Field field in Fields.Of(message))
        {
            normalizer = field.Number switch
            {
                2 => normalizer with { CharacterMap = field.Length > 0 },
                3 => normalizer with { DummyPrefix = field.Value != 0 },
                4 => normalizer with { RemovesExtraSpaces = field.Value != 0 },
                5 => normalizer with { EscapesSpaces = field.Value != 0 },
                _ => normalizer,
            };
        }
        return normalizer;
    }

    private static string Text(ReadOnlySpan<byte> bytes)
    {
        try
        {
            return s_strictUtf8.GetString(bytes);
        }
        catch (DecoderFallbackException)
        {
            throw new FormatException("It has a piece that is not well-formed UTF-8.");
        }
    }

    private static readonly UTF8Encoding s_strictUtf8 = new(false, throwOnInvalidBytes: true);

    /// <summary>One field of a message: a number, or bytes at a place.</summary>
    private readonly record struct Field(int Number, long Value, int Start, int Length)
    {
        public ReadOnlySpan<byte> BytesIn(ReadOnlySpan<byte> message) => message.Slice(Start, Length);
    }

    /// <summary>The wire format of Protocol Buffers, without groups.</summary>
    private static class Fields
    {
        public static List<Field> Of(ReadOnlySpan<byte> message)
        {
            var fields = new List<Field>();
            for (int at = 0; at < message.Length;)
            {
                ulong key = Varint(message, ref at);
                int number = (int)Math.Min(key >> 3, int.MaxValue);
                ulong length = (key & 7) switch { 1 => 8, 2 => Varint(message, ref at), 5 => 4, 0 => 0, _ => ulong.MaxValue };
                if (length > (ulong)(message.Length - at))
                    throw new FormatException("It is cut off, or is no SentencePiece model.");
                long value = (key & 7) switch
                {
                    0 => (long)Varint(message, ref at),
                    5 => BinaryPrimitives.ReadInt32LittleEndian(message[at..]),
                    _ => 0,
                };
                fields.Add(new Field(number, value, at, (int)length));
                at += (int)length;
            }
            return fields;
        }

        private static ulong Varint(ReadOnlySpan<byte> message, ref int at)
        {
            ulong value = 0;
            for (int shift = 0; shift < 64 && at < message.Length; shift += 7)
            {
                byte part = message[at++];
                value |= (ulong)(part & 0x7F) << shift;
                if (part < 0x80)
                    return value;
            }
            throw new FormatException("It is cut off, or is no SentencePiece model.");
        }
    }
}
