using System.Text.Json;
using System.Text.RegularExpressions;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Checkpoints;

internal sealed partial class PretrainedWeights
{
    private const string Unfinished = ".tmp";

    /// <summary>
    /// Writes a folder that transformers reads: <c>model.safetensors</c>, or shards with their index where one file would be too large.
    /// What was there before is replaced, but only once everything new is on the disk; a mixture of two models is never left behind.
    /// </summary>
    /// <param name="folder">Made if it does not exist.</param>
    /// <param name="tensors">Names as transformers has them, each once. A source may be a view, of any type and on any device.</param>
    /// <param name="maxShardBytes">The most that the tensors of one file take, unless one tensor alone takes more.</param>
    /// <param name="type">Type of all numbers in the file: float32, float16 (where numbers beyond 65,504 are infinite) or bfloat16.</param>
    /// <exception cref="ArgumentException">A name stands twice, the size is not positive, or the type is another one.</exception>
    /// <exception cref="IOException">The files cannot be written.</exception>
    public static void Write(
        string folder, IEnumerable<(string Name, Tensor Source)> tensors, long maxShardBytes, ScalarType type = ScalarType.Float32)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(maxShardBytes);
        string typeName = SafetensorsHeader.NameOf(type);
        var shards = Shards([.. tensors], typeName, maxShardBytes);
        string[] names = shards.Count == 1
            ? [SingleFile]
            : [.. Enumerable.Range(1, shards.Count).Select(i => $"model-{i:D5}-of-{shards.Count:D5}.safetensors"), IndexFile];

        Directory.CreateDirectory(folder);
        string PathOf(string name) => Path.Combine(folder, name);
        try
        {
            // 1. Everything is written under another name.
            foreach (var (name, shard) in names.Zip(shards))
                WriteFile(PathOf(name + Unfinished), stream => WriteShard(stream, shard, type, typeName));
            if (shards.Count > 1)
                WriteFile(PathOf(IndexFile + Unfinished), stream => WriteIndex(stream, names.Zip(shards), typeName));

            // 2. It replaces what was there. Without an index, old and new shards are no model; the new index comes last.
            if (shards.Count > 1)
                File.Delete(PathOf(IndexFile));
            foreach (string name in names)
                File.Move(PathOf(name + Unfinished), PathOf(name), overwrite: true);
        }
        finally
        {
            foreach (string name in names)
                File.Delete(PathOf(name + Unfinished));
        }

        // 3. What another number of files left behind goes; a single file would be preferred to the new shards.
        foreach (string path in Directory.GetFiles(folder))
            if (WeightFile().IsMatch(Path.GetFileName(path)) && !names.Contains(Path.GetFileName(path)))
                File.Delete(path);
    }

    /// <summary>Tensors in their order, a new shard whenever the next one would not fit.</summary>
    private static List<List<(string Name, Tensor Source)>> Shards(List<(string Name, Tensor Source)> tensors, string type, long maxBytes)
    {
        if (tensors.CountBy(t => t.Name).FirstOrDefault(n => n.Value > 1) is { Key: { } twice })
            throw new ArgumentException($"Tensor '{twice}' stands {tensors.Count(t => t.Name == twice)} times, but names must differ.");
        List<List<(string Name, Tensor Source)>> shards = [[]];
        long used = 0;
        foreach (var tensor in tensors)
        {
            long bytes = SafetensorsHeader.Bytes(type, tensor.Source.shape);
            if (used + bytes > maxBytes && shards[^1].Count > 0)
            {
                shards.Add([]);
                used = 0;
            }
            shards[^1].Add(tensor);
            used += bytes;
        }
        return shards;
    }

    internal static void WriteFile(string path, Action<Stream> write)
    {
        using var stream = new FileStream(path, FileMode.Create, FileAccess.Write, FileShare.None);
        write(stream);
        stream.Flush(flushToDisk: true);
    }

    internal static void WriteShard(
        Stream stream, IReadOnlyList<(string Name, Tensor Source)> shard, ScalarType type, string typeName)
    {
        SafetensorsHeader.Write(stream, shard.Select(t => (t.Name, t.Source.shape)), typeName, ("format", "pt"));
        foreach (var (_, source) in shard)
            TensorBytes.Write(source, type, stream);
    }

    /// <summary>As transformers writes it: sorted by name, with the sizes of all shards together.</summary>
    private static void WriteIndex(
        Stream stream, IEnumerable<(string File, List<(string Name, Tensor Source)> Tensors)> shards, string type)
    {
        var all = shards.SelectMany(shard => shard.Tensors.Select(t => (t.Name, shard.File, t.Source)))
            .OrderBy(t => t.Name, StringComparer.Ordinal).ToArray();
        using var json = new Utf8JsonWriter(stream, new JsonWriterOptions { Indented = true, NewLine = "\n" });
        json.WriteStartObject();
        json.WriteStartObject("metadata");
        json.WriteNumber("total_parameters", all.Sum(t => t.Source.numel()));
        json.WriteNumber("total_size", all.Sum(t => SafetensorsHeader.Bytes(type, t.Source.shape)));
        json.WriteEndObject();
        json.WriteStartObject("weight_map");
        foreach (var (name, file, _) in all)
            json.WriteString(name, file);
        json.WriteEndObject();
        json.WriteEndObject();
        json.Flush();
        stream.Write("\n"u8);
    }

    [GeneratedRegex(@"^model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?(\.tmp)?$")]
    private static partial Regex WeightFile();
}
