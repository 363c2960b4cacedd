using System.Globalization;
using System.IO.Compression;
using System.Reflection;

namespace ML.Rlhf;

/// <summary>
/// The vocabularies of OpenAI's models, from the packages <c>Microsoft.ML.Tokenizers.Data.*</c>. There a pair is merged if the two are a
/// token together, the token with the smallest id first; the same is written here as a list of merges, so that such a tokenizer is a
/// byte-level BPE as any other: it decodes a token at a time, is saved without the package, and as a tokenizer.json.
/// </summary>
internal static class TiktokenVocabulary
{
    private const string EndOfText = "<|endoftext|>";

    // The patterns of tiktoken, without the possessive quantifiers, which only save time; "\s+(?![\s\S])" is white space at the end.
    private const string Cl100kPattern =
        @"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?![\s\S])|\s*[\r\n]|\s+(?!\S)|\s";

    private const string O200kPattern =
        @"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|" +
        @"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|" +
        @"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

    private sealed record Encoding(string Name, string Package, SplitRule Split, Dictionary<string, int> SpecialTokens);

    private static readonly Encoding[] s_encodings =
    [
        new("gpt2", "Gpt2", SplitRule.Gpt2, new() { [EndOfText] = 50256 }),
        new("r50k_base", "R50kBase", SplitRule.Gpt2, new() { [EndOfText] = 50256 }),
        new("p50k_base", "P50kBase", SplitRule.Gpt2, new() { [EndOfText] = 50256 }),
        new("cl100k_base", "Cl100kBase", new SplitRule(Cl100kPattern), new()
        {
            [EndOfText] = 100257, ["<|fim_prefix|>"] = 100258, ["<|fim_middle|>"] = 100259, ["<|fim_suffix|>"] = 100260,
            ["<|endofprompt|>"] = 100276,
        }),
        new("o200k_base", "O200kBase", new SplitRule(O200kPattern), new() { [EndOfText] = 199999, ["<|endofprompt|>"] = 200018 }),
    ];

    /// <exception cref="ArgumentException">There is no such encoding.</exception>
    /// <exception cref="FileNotFoundException">The package with its vocabulary is missing; the message names it.</exception>
    public static TextTokenizer Load(string name)
    {
        Encoding encoding = s_encodings.FirstOrDefault(encoding => encoding.Name == name) ?? throw new ArgumentException(
            $"There is no encoding '{name}'. There are: {string.Join(", ", s_encodings.Select(encoding => encoding.Name))}.", nameof(name));
        Dictionary<string, int> tokens = ReadTokens(encoding);
        return new TextTokenizer(new TokenizerContent
        {
            Kind = TokenizerKind.ByteLevelBpe,
            Vocabulary = TokenizerJsonReader.Vocabulary(
                tokens.Concat(encoding.SpecialTokens).Select(token => (token.Key, token.Value)), []),
            Merges = Merges(tokens),
            SpecialTokens = encoding.SpecialTokens,
            EndOfText = EndOfText,
            ByteLevel = new ByteLevelRules { Splits = [encoding.Split], WholePieces = true },
        });
    }

    /// <summary>
    /// Id of each token, by its bytes in the alphabet. Behind a first line with their number, each line of the file has the bytes of a
    /// token in Base64, and its id where the ids do not simply go with the lines.
    /// </summary>
    private static Dictionary<string, int> ReadTokens(Encoding encoding)
    {
        string package = $"Microsoft.ML.Tokenizers.Data.{encoding.Package}", file = $"{encoding.Name}.tiktoken.deflate";
        using Stream compressed = OpenData(package, file) ?? throw new FileNotFoundException(
            $"The vocabulary of '{encoding.Name}' is in the package {package}. Add it to the project: dotnet add package {package}");
        using var lines = new StreamReader(new DeflateStream(compressed, CompressionMode.Decompress));
        var tokens = new Dictionary<string, int>();
        while (lines.ReadLine() is { } line)
        {
            if (line.StartsWith("Capacity:", StringComparison.Ordinal))
                continue;
            string[] parts = line.Split(' ');
            int id = parts.Length > 1 ? int.Parse(parts[1], CultureInfo.InvariantCulture) : tokens.Count;
            tokens.Add(ByteAlphabet.Write(Convert.FromBase64String(parts[0])), id);
        }
        return tokens;
    }

    private static Stream? OpenData(string package, string file)
    {
        try
        {
            return Assembly.Load(package).GetManifestResourceStream(file);
        }
        catch (FileNotFoundException)
        {
            return null;
        }
    }

    /// <summary>Every way to put a token together from two others, the token with the smallest id first.</summary>
    private static string[] Merges(Dictionary<string, int> tokens)
    {
        var ids = tokens.GetAlternateLookup<ReadOnlySpan<char>>();
        var merges = new List<string>(2 * tokens.Count);
        var ways = new List<(int Left, int Right, int At)>();
        foreach (var (token, _) in tokens.OrderBy(token => token.Value))
        {
            ways.Clear();
            for (int at = 1; at < token.Length; at++)
            {
                if (ids.TryGetValue(token.AsSpan(0, at), out int left) && ids.TryGetValue(token.AsSpan(at), out int right))
                    ways.Add((left, right, at));
            }
            ways.Sort();
            merges.AddRange(ways.Select(way => $"{token.AsSpan(0, way.At)} {token.AsSpan(way.At)}"));
        }
        return [.. merges];
    }
}
