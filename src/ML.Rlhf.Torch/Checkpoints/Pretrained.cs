using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Native;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Checkpoints;

/// <summary>
/// Language models in Hugging Face's layout: a folder with <c>config.json</c> and <c>model.safetensors</c>, or its shards. Reading one
/// creates tensors and runs nothing; what is written, transformers loads with the same logits.
/// </summary>
/// <remarks>
/// Model types: gpt2, openai-gpt, llama, mistral, qwen2, qwen3. Numbers of F32, F16 and BF16 are read, and become 32-bit floats.
/// </remarks>
public static class Pretrained
{
    /// <summary>The most that the tensors of one file take where nothing else is said: 5 GB, a limit that hubs have.</summary>
    internal const long DefaultShardBytes = 5_000_000_000;

    /// <summary>Reads a language model.</summary>
    /// <param name="folder">The folder.</param>
    /// <returns>The model, in evaluation mode, on the CPU.</returns>
    /// <exception cref="FormatException">A file is damaged, or the model is of a kind or has tensors that are not built here; all problems
    /// are listed.</exception>
    /// <exception cref="IOException">There is no such folder, or a file is missing.</exception>
    public static CausalLanguageModel LanguageModel(string folder)
    {
        ArgumentException.ThrowIfNullOrEmpty(folder);
        var config = PretrainedConfig.Read(folder);
        if (config.IsScalar)
            throw new FormatException(
                $"The model in '{folder}' is a sequence classifier, which scores texts and writes none. Load it as a reward model.");
        using var weights = OpenWeights(folder, config.Architecture);
        return Fill(weights, CausalLanguageModel.Create(config.Architecture), model => model.CheckpointTensors(), IsIgnorable);
    }

    /// <summary>Reads a reward model: a sequence classifier with one label.</summary>
    /// <inheritdoc cref="LanguageModel"/>
    public static ScalarGpt RewardModel(string folder)
    {
        ArgumentException.ThrowIfNullOrEmpty(folder);
        var config = PretrainedConfig.Read(folder);
        if (!config.IsScalar)
            throw new FormatException(
                $"The model in '{folder}' is no sequence classifier with one label. Load it as a language model, and train a reward " +
                "model from it.");
        using var weights = OpenWeights(folder, config.Architecture);
        bool hasBias = weights.Tensors.ContainsKey(ScalarGpt.BiasName);
        return Fill(
            weights, new ScalarGpt(CausalLanguageModel.Create(config.Architecture), generator: null),
            model => model.CheckpointTensors().Where(t => hasBias || t.Name != ScalarGpt.BiasName), IsIgnorable);
    }

    /// <summary>Reads an encoder: a BERT or a RoBERTa, with or without its head for masked words.</summary>
    /// <remarks>Model types: bert, roberta.</remarks>
    /// <inheritdoc cref="LanguageModel"/>
    public static Modules.Encoder Encoder(string folder)
    {
        ArgumentException.ThrowIfNullOrEmpty(folder);
        return EncoderCheckpoint.Load(folder);
    }

    /// <summary>Writes a language model.</summary>
    /// <param name="model">The model. Adapters are merged into the weights that are written.</param>
    /// <param name="folder">Made if it does not exist; a model that is there is replaced.</param>
    /// <param name="type">Type of the numbers in the file; those of 16 bits take half the space, and are rounded.</param>
    /// <param name="endToken">The id of the token that ends a text, for the configuration; null for none.</param>
    /// <param name="beginToken">The id of the token that a text begins with; null where that is the one that ends the text before.</param>
    /// <exception cref="NotSupportedException">Transformers has no such model.</exception>
    /// <exception cref="IOException">The files cannot be written.</exception>
    public static void Save(
        CausalLanguageModel model, string folder, WeightType type = WeightType.Float32, int? endToken = null, int? beginToken = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        using var merged = model.HasAdapters ? model.Clone() : null;
        var config = PretrainedConfig.Write(model.Architecture, scalar: false, endToken, beginToken);
        Save(folder, config, (merged ?? model).CheckpointTensors, type);
    }

    /// <summary>Writes a reward model as a sequence classifier with one label.</summary>
    /// <remarks>
    /// <see cref="ScalarGpt.Gain"/> is multiplied into the head. Transformers' head has no bias: the model's is written as
    /// <c>score.bias</c>, which is read here and left out there, so that scores differ by a constant, and preferences by nothing.
    /// </remarks>
    /// <inheritdoc cref="Save(CausalLanguageModel, string, WeightType, int?, int?)"/>
    public static void Save(
        ScalarGpt model, string folder, WeightType type = WeightType.Float32, int? endToken = null, int? beginToken = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        using var merged = model.Trunk.HasAdapters ? model.Clone() : null;
        var config = PretrainedConfig.Write(model.Trunk.Architecture, scalar: true, endToken, beginToken);
        Save(folder, config, (merged ?? model).NormalizedTensors, type);
    }

    /// <summary>The parameters of a model by the names that they have in Hugging Face's files, to compare gradients with.</summary>
    /// <remarks>GPT-2's projections are kept there as (in, out), and are (out, in) here.</remarks>
    public static IEnumerable<(string Name, Tensor Parameter)> Parameters(CausalLanguageModel model)
    {
        ArgumentNullException.ThrowIfNull(model);
        return model.BaseParameters().Select(p => (model.CheckpointName(p.Name), (Tensor)p.Parameter));
    }

    /// <inheritdoc cref="Parameters(CausalLanguageModel)"/>
    public static IEnumerable<(string Name, Tensor Parameter)> Parameters(ScalarGpt model)
    {
        ArgumentNullException.ThrowIfNull(model);
        return Parameters(model.Trunk).Concat(model.HeadTensors());
    }

    /// <inheritdoc cref="Parameters(CausalLanguageModel)"/>
    public static IEnumerable<(string Name, Tensor Parameter)> Parameters(Modules.Encoder model)
    {
        ArgumentNullException.ThrowIfNull(model);
        return model.CheckpointTensors();
    }

    /// <summary>Reads all tensors of one safetensors file, as 32-bit floats on the CPU.</summary>
    /// <param name="path">The file.</param>
    /// <returns>The tensors by name; they belong to the caller's dispose scope.</returns>
    /// <exception cref="FormatException">The file is damaged, or has numbers of a type that is not read (integers, masks).</exception>
    /// <exception cref="IOException">There is no such file.</exception>
    public static IReadOnlyDictionary<string, Tensor> Tensors(string path)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        LibTorch.EnsureLoaded();
        using var file = new SafetensorsFile(path);
        var tensors = new Dictionary<string, Tensor>();
        foreach (var info in file.Tensors)
        {
            var tensor = empty(info.Shape);
            file.Read(info, tensor);
            tensors.Add(info.Name, tensor);
        }
        return tensors;
    }

    /// <summary>Writes tensors by their names there, and the configuration that goes with them.</summary>
    internal static void Save(string folder, JsonObject config, Func<IEnumerable<(string, Tensor)>> tensors, WeightType type)
    {
        ArgumentException.ThrowIfNullOrEmpty(folder);
        LibTorch.EnsureLoaded();
        config["dtype"] = type.ToString().ToLowerInvariant();
        config["torch_dtype"] = type.ToString().ToLowerInvariant(); // its name before transformers 5
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        PretrainedWeights.Write(folder, tensors(), DefaultShardBytes, type.ScalarType());
        PeftAdapter.Delete(folder); // transformers would put the adapters of the model before onto this one
        File.WriteAllText(Path.Combine(folder, PretrainedConfig.FileName), config.ToJsonString(s_indented) + "\n", new UTF8Encoding(false));
    }

    /// <summary>Opens the weights of a model whose shape is known.</summary>
    private static PretrainedWeights OpenWeights(string folder, LanguageModelArchitecture architecture)
    {
        LibTorch.EnsureLoaded();
        var weights = PretrainedWeights.Open(folder);
        try
        {
            RequireEnough(weights, architecture, folder);
            return weights;
        }
        catch
        {
            weights.Dispose();
            throw;
        }
    }

    /// <summary>Reads the weights of a new model, which is not left behind when that fails.</summary>
    /// <param name="weights">Of this model, as far as their number says (<see cref="RequireEnough"/>).</param>
    /// <param name="model">The new model.</param>
    /// <param name="tensorsOf">Its tensors by their names in the file, the first of them the trunk's.</param>
    /// <param name="isIgnorable">Says of a name in the file whether the model may do without it.</param>
    internal static T Fill<T>(
        PretrainedWeights weights, T model, Func<T, IEnumerable<(string Name, Tensor Target)>> tensorsOf, Func<string, bool> isIgnorable)
        where T : nn.Module
    {
        try
        {
            using var scope = NewDisposeScope(); // an embedding gives a new tensor each time it is asked for its weight
            using var noGrad = no_grad();
            var tensors = tensorsOf(model).ToArray();
            weights.ReadAll(tensors, Prefix(tensors), isIgnorable);
            model.eval();
            return model;
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    /// <summary>
    /// Memory is only asked for when the files have what it is for. A model that lacks some of its tensors still gets the list of them.
    /// </summary>
    internal static void RequireEnough(PretrainedWeights weights, LanguageModelArchitecture architecture, string folder)
    {
        long there = weights.Tensors.Values.Sum(tensor => tensor.Shape.Aggregate(1L, (product, size) => product * size));
        if (architecture.ParameterCount / 4 > there + MuchLess)
            throw new FormatException(
                $"'{folder}' has a {PretrainedConfig.FileName} of a model with {architecture.ParameterCount} parameters, but weights of " +
                $"only {there} numbers. Check that both belong together, and download or save the model again.");
    }

    private const long MuchLess = 1 << 20;

    /// <summary>What stands before the names of the trunk, which a file of the bare trunk does not have.</summary>
    private static string Prefix((string Name, Tensor)[] tensors) => tensors[0].Name[..(tensors[0].Name.IndexOf('.') + 1)];

    /// <summary>Masks and tables that old files carry along, and a tied head's second copy.</summary>
    private static bool IsIgnorable(string name) =>
        name.EndsWith(".attn.bias", StringComparison.Ordinal) || name.EndsWith(".attn.masked_bias", StringComparison.Ordinal)
        || name.EndsWith("rotary_emb.inv_freq", StringComparison.Ordinal) || name == "lm_head.weight";

    private static readonly JsonSerializerOptions s_indented =
        new() { WriteIndented = true, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };
}
