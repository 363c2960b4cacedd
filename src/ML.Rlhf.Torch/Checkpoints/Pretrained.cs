using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;
using ML.Rlhf.Torch.Modules;
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
        return Fill(folder, () => CausalLanguageModel.Create(config.Architecture), model => model.CheckpointTensors());
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
        using var weights = PretrainedWeights.Open(folder);
        bool hasBias = weights.Tensors.ContainsKey(ScalarGpt.BiasName);
        return Fill(folder, () => new ScalarGpt(CausalLanguageModel.Create(config.Architecture), generator: null),
            model => model.CheckpointTensors().Where(t => hasBias || t.Name != ScalarGpt.BiasName));
    }

    /// <summary>Writes a language model.</summary>
    /// <param name="model">The model.</param>
    /// <param name="folder">Made if it does not exist; a model that is there is replaced.</param>
    /// <param name="type">Type of the numbers: float32, float16 or bfloat16. The last two take half the space and round.</param>
    /// <param name="endToken">The id of the token that ends a text, for the configuration; null for none.</param>
    /// <exception cref="NotSupportedException">Transformers has no such model.</exception>
    /// <exception cref="IOException">The files cannot be written.</exception>
    public static void Save(CausalLanguageModel model, string folder, ScalarType type = ScalarType.Float32, int? endToken = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        Save(folder, PretrainedConfig.Write(model.Architecture, scalar: false, endToken), model.CheckpointTensors, type);
    }

    /// <summary>Writes a reward model as a sequence classifier with one label.</summary>
    /// <remarks>
    /// <see cref="ScalarGpt.Gain"/> is multiplied into the head. Transformers' head has no bias: the model's is written as
    /// <c>score.bias</c>, which is read here and left out there, so that scores differ by a constant, and preferences by nothing.
    /// </remarks>
    /// <inheritdoc cref="Save(CausalLanguageModel, string, ScalarType, int?)"/>
    public static void Save(ScalarGpt model, string folder, ScalarType type = ScalarType.Float32, int? endToken = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        Save(folder, PretrainedConfig.Write(model.Trunk.Architecture, scalar: true, endToken), model.NormalizedTensors, type);
    }

    private static void Save(string folder, JsonObject config, Func<IEnumerable<(string, Tensor)>> tensors, ScalarType type)
    {
        ArgumentException.ThrowIfNullOrEmpty(folder);
        if (type != ScalarType.Float32)
            config["dtype"] = config["torch_dtype"] = type == ScalarType.Float16 ? "float16" : "bfloat16";
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        PretrainedWeights.Write(folder, tensors(), DefaultShardBytes, type);
        File.WriteAllText(Path.Combine(folder, PretrainedConfig.FileName), config.ToJsonString(s_indented) + "\n", new UTF8Encoding(false));
    }

    private static T Fill<T>(string folder, Func<T> create, Func<T, IEnumerable<(string Name, Tensor Target)>> tensorsOf)
        where T : nn.Module
    {
        using var weights = PretrainedWeights.Open(folder); // a damaged file is refused before memory is asked for
        var model = create();
        try
        {
            using var scope = NewDisposeScope();
            using var noGrad = no_grad();
            var tensors = tensorsOf(model).ToArray();
            weights.ReadAll(tensors, Prefix(tensors), Ignorable);
            model.eval();
            return model;
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    /// <summary>What stands before the names of the trunk, which a file of the bare trunk does not have.</summary>
    private static string Prefix((string Name, Tensor)[] tensors) => tensors[0].Name[..(tensors[0].Name.IndexOf('.') + 1)];

    /// <summary>Masks and tables that old files carry along, and a tied head's second copy.</summary>
    private static bool Ignorable(string name) =>
        name.EndsWith(".attn.bias", StringComparison.Ordinal) || name.EndsWith(".attn.masked_bias", StringComparison.Ordinal)
        || name.EndsWith("rotary_emb.inv_freq", StringComparison.Ordinal) || name == "lm_head.weight";

    private static readonly JsonSerializerOptions s_indented =
        new() { WriteIndented = true, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };
}
