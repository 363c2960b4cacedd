using System.Text.Json;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Checkpoints;

/// <summary>
/// The weights of a model in the Hugging Face layout: <c>model.safetensors</c>, or shards that <c>model.safetensors.index.json</c> lists.
/// Opening reads the headers only.
/// </summary>
internal sealed partial class PretrainedWeights : IDisposable
{
    private const string SingleFile = "model.safetensors";
    private const string IndexFile = "model.safetensors.index.json";

    private readonly string _folder;
    private readonly List<SafetensorsFile> _files = [];
    private readonly Dictionary<string, TensorInfo> _tensors = [];
    private readonly Dictionary<string, SafetensorsFile> _fileOf = [];

    private PretrainedWeights(string folder) => _folder = folder;

    /// <summary>What the files declare, by name. Types that are not read (masks, counters) may be among them.</summary>
    public IReadOnlyDictionary<string, TensorInfo> Tensors => _tensors;

    /// <summary>Opens a folder.</summary>
    /// <exception cref="FormatException">A file is damaged, or index and shards do not fit together.</exception>
    /// <exception cref="IOException">There is no such folder, or it has no weights in this format.</exception>
    public static PretrainedWeights Open(string folder)
    {
        var weights = new PretrainedWeights(folder);
        try
        {
            string single = Path.Combine(folder, SingleFile), index = Path.Combine(folder, IndexFile);
            if (PretrainedFile.Exists(single))
                weights.Add(single);
            else if (PretrainedFile.Exists(index))
                weights.AddShards(index);
            else
                throw NoWeights(folder);
            return weights;
        }
        catch
        {
            weights.Dispose();
            throw;
        }
    }

    /// <summary>Copies a tensor, converted to the type of its target.</summary>
    /// <param name="name">A name of <see cref="Tensors"/>.</param>
    /// <param name="target">A tensor of that shape; any type, strides and device.</param>
    /// <exception cref="FormatException">There is no such tensor, or it has another shape, or a type that is not read.</exception>
    public void Read(string name, Tensor target) => ReadAll([(name, target)], prefix: "", ignorable: _ => true);

    /// <summary>Copies all tensors that a model has. Nothing is copied unless everything fits.</summary>
    /// <param name="targets">The model's tensors by their names in the file, with the prefix; the caller owns them.</param>
    /// <param name="prefix">What stands before the names of the base model's tensors when it has a head (<c>transformer.</c>). Files of a
    /// bare base model have no prefix; both are read.</param>
    /// <param name="ignorable">Says of a name in the file whether the model may do without it.</param>
    /// <exception cref="FormatException">Tensors are missing, not part of the model, or of another shape or type: all of them are listed.
    /// </exception>
    public void ReadAll(IEnumerable<(string Name, Tensor Target)> targets, string prefix, Func<string, bool> ignorable)
    {
        var comparison = new WeightComparison();
        var found = new List<(TensorInfo File, Tensor Target)>();
        foreach (var (name, target) in targets)
        {
            if (Find(name, prefix) is { } tensor)
            {
                comparison.Both(tensor, target.shape, "F32", "F16", "BF16");
                found.Add((tensor, target));
            }
            else
            {
                comparison.Missing(name);
            }
        }
        foreach (string name in _tensors.Keys.Except(found.Select(f => f.File.Name)).Where(name => !ignorable(name)))
            comparison.Extra(name);
        if (comparison.Problem() is { } problem)
            throw new FormatException(
                $"The weights in '{_folder}' do not fit the model: {problem}. Check that config.json belongs to the weights, and " +
                "download or save both again.");
        foreach (var (tensor, target) in found)
            _fileOf[tensor.Name].Read(tensor, target);
    }

    public void Dispose()
    {
        foreach (var file in _files)
            file.Dispose();
    }

    private TensorInfo? Find(string name, string prefix) =>
        _tensors.GetValueOrDefault(name) ??
        (name.StartsWith(prefix, StringComparison.Ordinal) ? _tensors.GetValueOrDefault(name[prefix.Length..]) : null);

    private void Add(string path)
    {
        var file = new SafetensorsFile(path);
        _files.Add(file);
        foreach (var tensor in file.Tensors)
        {
            if (_fileOf.TryGetValue(tensor.Name, out var other))
                throw new FormatException(
                    $"Tensor {SafetensorsHeader.Quoted(tensor.Name)} is in two files of '{_folder}': '{other.Name}' and '{file.Name}'. " +
                    "They belong to two models; download or save the model again, as a whole.");
            _tensors.Add(tensor.Name, tensor);
            _fileOf.Add(tensor.Name, file);
        }
    }

    private void AddShards(string indexPath)
    {
        using var index = PretrainedJson.Read(indexPath);
        var shardOf = ShardsByTensor(index, indexPath);
        string[] shards = [.. shardOf.Values.Distinct().Order(StringComparer.Ordinal)];
        string[] missing = [.. shards.Where(shard => !File.Exists(Path.Combine(_folder, shard)))];
        if (missing.Length > 0)
            throw BadIndex(indexPath, $"{Some(missing)} of its {shards.Length} shards are not in the folder");
        foreach (string shard in shards)
            Add(Path.Combine(_folder, shard));
        string[] absent =
            [.. shardOf.Where(entry => _fileOf.GetValueOrDefault(entry.Key)?.Name != entry.Value).Select(entry => entry.Key)];
        if (absent.Length > 0)
            throw BadIndex(indexPath, $"{Some(absent)} are not in the shards that it names for them");
    }

    /// <summary>
    /// The index' <c>weight_map</c>: {"tensor": "shard"}. A shard is a file of this folder (or a link there), whatever its name tries.
    /// </summary>
    private static Dictionary<string, string> ShardsByTensor(JsonDocument index, string path)
    {
        if (index.RootElement.ValueKind != JsonValueKind.Object
            || !index.RootElement.TryGetProperty("weight_map", out var map) || map.ValueKind != JsonValueKind.Object)
            throw BadIndex(path, "it has no object 'weight_map'");
        var shardOf = new Dictionary<string, string>();
        try
        {
            foreach (var entry in map.EnumerateObject())
            {
                string shard = entry.Value.ValueKind == JsonValueKind.String ? entry.Value.GetString()! : entry.Value.GetRawText();
                if (!IsPlainName(shard))
                    throw BadIndex(path, $"tensor {SafetensorsHeader.Quoted(entry.Name)} is said to be in " +
                        $"{SafetensorsHeader.Quoted(shard)}, which is no name of a .safetensors file beside the index");
                shardOf.Add(entry.Name, shard);
            }
        }
        catch (InvalidOperationException e) // half of a surrogate pair
        {
            throw BadIndex(path, e.Message.TrimEnd('.'));
        }
        return shardOf;
    }

    private static bool IsPlainName(string name) =>
        name.EndsWith(".safetensors", StringComparison.Ordinal) && name.Length is > 12 and <= 255
        && !name.Any(c => char.IsControl(c) || c is '/' or '\\' or ':');

    private static string Some(string[] names) => string.Join(", ", names.Take(20).Select(SafetensorsHeader.Quoted)) +
        (names.Length > 20 ? $" and {names.Length - 20} more" : "");

    private static FormatException BadIndex(string path, string problem) =>
        new($"'{path}' cannot be used: {problem}. Download or save the model again, as a whole.");

    private static IOException NoWeights(string folder)
    {
        if (!Directory.Exists(folder))
            return new DirectoryNotFoundException($"There is no folder '{folder}'. Check the path.");
        string fix = File.Exists(Path.Combine(folder, "pytorch_model.bin"))
            ? "Its pytorch_model.bin may run code when it is read: convert it with transformers' save_pretrained, which writes safetensors."
            : "Download or save the model again, as a whole.";
        return new FileNotFoundException($"'{folder}' has neither '{SingleFile}' nor '{IndexFile}'. {fix}");
    }
}
