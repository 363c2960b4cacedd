using System.Buffers.Binary;
using System.Text;
using Microsoft.ML;
using ML.Rlhf.TestSupport;
using ML.Rlhf.Torch.Checkpoints;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Tests.Fuzz;

/// <summary>Damage to the files of a checkpoint.</summary>
internal static class CheckpointDamage
{
    /// <summary>Changes the header of a safetensors file, the numbers behind it, or both.</summary>
    public static byte[] Safetensors(Mutator mutator, byte[] content, SplitText header)
    {
        if (mutator.Next(4) == 0)
            return mutator.Bytes(content);
        byte[] data = content[(8 + HeaderLength(content))..];
        return RawSafetensors.File(mutator.Pieces(header), mutator.Next(4) == 0 ? mutator.Bytes(data) : data);
    }

    public static SplitText Header(byte[] content) => new(Encoding.UTF8.GetString(content, 8, HeaderLength(content)));

    private static int HeaderLength(byte[] content) => (int)BinaryPrimitives.ReadInt64LittleEndian(content);
}

/// <summary>
/// Weights: one file, and shards with an index. (<c>FuzzedWeightsTests</c> reads another 15,000 of larger models, and counts bytes.)
/// </summary>
internal sealed class SafetensorsFuzz : FuzzFormat
{
    private readonly Dictionary<string, SplitText> _pieces;
    private readonly string[] _places;

    public SafetensorsFuzz()
    {
        using var scope = NewDisposeScope();
        (string, Tensor)[] tensors =
        [
            ("h.0.attn.weight", rand(4, 12)), ("h.0.attn.bias", rand(12)), ("wte.weight", rand(10, 4)), ("scalar", tensor(1f)),
            ("empty", rand(0, 3)),
        ];
        foreach (var (name, shard) in new[] { ("one", 1 << 20), ("shards", 200) })
        {
            string folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;
            PretrainedWeights.Write(folder, tensors, shard);
            AddFolder(name, folder);
            Directory.Delete(folder, recursive: true);
        }
        _places = [.. Whole.Keys];
        _pieces = Whole.ToDictionary(file => file.Key, file => file.Key.EndsWith(".json", StringComparison.Ordinal)
            ? new SplitText(Encoding.UTF8.GetString(file.Value))
            : CheckpointDamage.Header(file.Value));
    }

    public override FuzzInput Damage(Mutator mutator)
    {
        string place = _places[mutator.Next(_places.Length)];
        return new(place, place.EndsWith(".json", StringComparison.Ordinal)
            ? mutator.Next(4) == 0 ? mutator.Bytes(Whole[place]) : Encoding.UTF8.GetBytes(mutator.Pieces(_pieces[place]))
            : CheckpointDamage.Safetensors(mutator, Whole[place], _pieces[place]));
    }

    public override void Read(FuzzInput input) => WithDamaged(input, folder =>
    {
        using var scope = NewDisposeScope();
        using var weights = PretrainedWeights.Open(folder);
        foreach (var (name, tensor) in weights.Tensors.Where(t => t.Value.End > t.Value.Start)) // 0 × 2⁶² is too much for libtorch
        {
            if (SafetensorsHeader.ScalarTypeOf(tensor.Type) is not null)
                weights.Read(name, empty(tensor.Shape));
        }
    });

    public override bool IsRefusal(Exception e) => e is FormatException or IOException;
}

/// <summary>Configurations of models (<c>config.json</c>) and of sampling (<c>generation_config.json</c>).</summary>
internal sealed class ConfigFuzz : FuzzFormat
{
    private const string Sampling = "generation_config.json";

    private readonly Dictionary<string, SplitText> _pieces;
    private readonly string[] _places;

    public ConfigFuzz()
    {
        string configs = Golden.PathOf("configs");
        foreach (string file in Directory.GetFiles(configs, "*.json", SearchOption.AllDirectories).Order(StringComparer.Ordinal))
            Add(Path.GetRelativePath(configs, file).Replace('\\', '/'), File.ReadAllBytes(file));
        Add($"sampling/{Sampling}", """
            {"do_sample": true, "temperature": 0.7, "top_k": 50, "top_p": 0.9, "min_p": 0.05, "typical_p": 1.0, "epsilon_cutoff": 0.0,
             "repetition_penalty": 1.1, "no_repeat_ngram_size": 3, "max_new_tokens": 20, "min_new_tokens": 2, "eos_token_id": [1, 2]}
            """u8.ToArray());
        Add($"greedy/{Sampling}", """{"do_sample": false, "max_new_tokens": 20, "bos_token_id": 1, "eos_token_id": 2}"""u8.ToArray());
        _places = [.. Whole.Keys];
        _pieces = Whole.ToDictionary(file => file.Key, file => new SplitText(Encoding.UTF8.GetString(file.Value)));
    }

    public override FuzzInput Damage(Mutator mutator)
    {
        string place = _places[mutator.Next(_places.Length)];
        return new(place, mutator.Next(8) == 0 ? mutator.Bytes(Whole[place]) : Encoding.UTF8.GetBytes(mutator.Pieces(_pieces[place])));
    }

    public override void Read(FuzzInput input) => WithDamaged(input, folder =>
    {
        if (input.Place.EndsWith(Sampling, StringComparison.Ordinal))
            PretrainedSampling.Read(folder).Validate();
        else
            Assert.True(PretrainedConfig.Read(folder).Architecture.ParameterCount > 0, "a shape that is read has parameters");
    });

    public override bool IsRefusal(Exception e) => e is FormatException;
}

/// <summary>Adapters in PEFT's layout, read into a model.</summary>
internal sealed class AdapterFuzz : FuzzFormat
{
    private readonly ModelCatalog _models;
    private readonly Dictionary<string, SplitText> _pieces;
    private readonly string[] _places;

    public AdapterFuzz()
    {
        var ml = new MLContext(seed: 1);
        _models = ml.Rlhf().Models;
        string folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;
        using (var trained = ml.Rlhf().Trainers.SupervisedFineTuning(
            Tiny.Model, new SupervisedFineTuningOptions { Lora = new LoraOptions { Rank = 2 }, Epochs = 1 })
            .Fit(ml.Data.LoadFromEnumerable(Tiny.Demonstrations)))
            trained.SaveAdapter(folder);
        AddFolder("adapter", folder);
        Directory.Delete(folder, recursive: true);
        _places = [.. Whole.Keys];
        _pieces = Whole.ToDictionary(file => file.Key, file => file.Key.EndsWith(".json", StringComparison.Ordinal)
            ? new SplitText(Encoding.UTF8.GetString(file.Value))
            : CheckpointDamage.Header(file.Value));
    }

    public override FuzzInput Damage(Mutator mutator)
    {
        string place = _places[mutator.Next(_places.Length)];
        return new(place, place.EndsWith(".json", StringComparison.Ordinal)
            ? mutator.Next(8) == 0 ? mutator.Bytes(Whole[place]) : Encoding.UTF8.GetBytes(mutator.Pieces(_pieces[place], s_values))
            : CheckpointDamage.Safetensors(mutator, Whole[place], _pieces[place]));
    }

    public override void Read(FuzzInput input) => WithDamaged(input, folder => _models.LoadAdapter(Tiny.Model, folder).Dispose());

    public override bool IsRefusal(Exception e) => e is FormatException or IOException;

    private static readonly string[] s_values =
    [
        "null", "true", "false", "0", "-1", "1", "2", "4", "1e999", "2147483647", "0.5", "[]", "{}", "[null]", "[1]", "\"\"",
        "\"all-linear\"", "\"LORA\"",
        "\"IA3\"", "\"CAUSAL_LM\"", "\"SEQ_CLS\"", "\"none\"", "\"all\"", "\"c_attn\"", "\"h.0.attn.c_attn\"", "\".*\"", "\"(a+)+$\"",
        "\"\\ud800\"",
        "{\"c_attn\":3}", "{\"^h\":3}", "{\"\":3}", new string('[', 100), $"\"{new string('a', 20_000)}\"",
    ];
}
