using System.Text.Encodings.Web;
using System.Text.Json;
using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Checkpoints;

/// <summary>
/// Adapters in PEFT's layout: a folder with <c>adapter_config.json</c> and <c>adapter_model.safetensors</c>, whose tensors are called
/// <c>base_model.model.transformer.h.0.attn.c_attn.lora_A.weight</c>, (r, in), and <c>….lora_B.weight</c>, (out, r).
/// </summary>
internal static class PeftAdapter
{
    private const string WeightsFile = "adapter_model.safetensors", Unfinished = ".tmp";
    private const string Prefix = "base_model.model.", PartA = ".lora_A.weight", PartB = ".lora_B.weight";

    /// <summary>Takes away the adapters of a folder, if it has any.</summary>
    public static void Delete(string folder)
    {
        File.Delete(Path.Combine(folder, PeftConfig.FileName));
        File.Delete(Path.Combine(folder, WeightsFile));
    }

    /// <summary>Writes the adapters of a model; what is there is replaced.</summary>
    /// <param name="folder">Made if it does not exist.</param>
    /// <param name="model">A model with adapters.</param>
    /// <param name="baseModel">What PEFT will load the model itself from: a name on a hub or a folder; null leaves it open.</param>
    public static void Write(string folder, CausalLanguageModel model, string? baseModel = null) => Write(folder, model, null, baseModel);

    /// <inheritdoc cref="Write(string, CausalLanguageModel, string?)"/>
    /// <param name="folder">Made if it does not exist.</param>
    /// <param name="model">A model whose trunk has adapters; its head is written, too, with gain and bias in it.</param>
    /// <param name="baseModel">What PEFT will load the trunk from: a name on a hub or a folder; null leaves it open.</param>
    public static void Write(string folder, ScalarGpt model, string? baseModel = null) => Write(folder, model.Trunk, model, baseModel);

    private static void Write(string folder, CausalLanguageModel trunk, ScalarGpt? model, string? baseModel)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        var config = PeftConfig.Write(trunk, isScalar: model is not null, baseModel);
        (string Name, Tensor Tensor)[] tensors =
        [
            .. trunk.Adapters.SelectMany(adapter => Tensors(trunk, adapter)),
            .. (model?.NormalizedHead() ?? []).Select(t => (Prefix + t.Name, t.Source)),
        ];

        Directory.CreateDirectory(folder);
        string weightsPath = Path.Combine(folder, WeightsFile), configPath = Path.Combine(folder, PeftConfig.FileName);
        PretrainedWeights.WriteFile(
            weightsPath + Unfinished, stream => PretrainedWeights.WriteShard(stream, tensors, ScalarType.Float32, "F32"));
        File.WriteAllText(configPath + Unfinished, config.ToJsonString(s_indented) + "\n");
        File.Move(weightsPath + Unfinished, weightsPath, overwrite: true);
        File.Move(configPath + Unfinished, configPath, overwrite: true);
    }

    /// <summary>Gives a model the adapters of a folder. It must be without any, and does not survive an error.</summary>
    /// <exception cref="FormatException">A file is damaged, the adapters are of another kind or another model, or tensors are missing; all
    /// problems are listed.</exception>
    /// <exception cref="IOException">There is no such folder, or a file is missing.</exception>
    public static void Read(string folder, CausalLanguageModel model) => Read(folder, model, null);

    /// <summary>Gives the trunk of a model the adapters of a folder, and the model its head.</summary>
    /// <inheritdoc cref="Read(string, CausalLanguageModel)"/>
    public static void Read(string folder, ScalarGpt model) => Read(folder, model.Trunk, model);

    private static void Read(string folder, CausalLanguageModel trunk, ScalarGpt? model)
    {
        if (!Directory.Exists(folder))
            throw new DirectoryNotFoundException($"There is no folder '{folder}'. Check the path.");
        var config = PeftConfig.Read(folder);
        RequireTask(folder, config, isScalar: model is not null);
        using var file = Open(folder);

        // 1. The layers that the file has adapters for.
        var inFile = file.Tensors.ToDictionary(tensor => tensor.Name);
        var shapes = trunk.Projections().Select(p => (p.Path, Module: PeftConfig.ModuleName(trunk, p.Path)))
            .Where(p => inFile.ContainsKey(Prefix + p.Module + PartA) || inFile.ContainsKey(Prefix + p.Module + PartB))
            .Select(p => config.ShapeOf(p.Path, p.Module)).ToArray();

        // 2. Whether everything is there, before memory is asked for.
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        var head = (model?.HeadTensors() ?? []).Where(t => t.Name != ScalarGpt.BiasName || inFile.ContainsKey(Prefix + t.Name)).ToArray();
        var waiting = new Dictionary<string, long[]>();
        var projections = trunk.Projections().ToDictionary(p => p.Path, p => p.Projection.weight.shape);
        foreach (var shape in shapes)
        {
            string name = Prefix + PeftConfig.ModuleName(trunk, shape.Target);
            waiting.Add(name + PartA, [shape.Rank, projections[shape.Target][1]]);
            waiting.Add(name + PartB, [projections[shape.Target][0], shape.Rank]);
        }
        foreach (var (name, target) in head)
            waiting.Add(Prefix + name, target.shape);
        Compare(folder, config, waiting, inFile);

        // 3. Adapters, and their numbers.
        var targets = trunk.AttachAdapters(shapes).SelectMany(adapter => Tensors(trunk, adapter))
            .Concat(head.Select(t => (Prefix + t.Name, t.Target)));
        foreach (var (name, target) in targets)
            file.Read(inFile[name], target);
    }

    public static IEnumerable<(string Name, Tensor Tensor)> Tensors(CausalLanguageModel model, LowRankAdapter adapter)
    {
        string name = Prefix + PeftConfig.ModuleName(model, adapter.Shape.Target);
        return [(name + PartA, adapter.A), (name + PartB, adapter.B)];
    }

    private static void RequireTask(string folder, PeftConfig config, bool isScalar)
    {
        if (config.Task is { } task && task == PeftConfig.SequenceClassifier != isScalar)
            throw new FormatException(isScalar
                ? $"The adapter in '{folder}' is of a language model ({task}), and scores nothing. Load it with LoadAdapter."
                : $"The adapter in '{folder}' is of a sequence classifier ({task}), which scores texts. Load it with LoadRewardAdapter.");
    }

    private static SafetensorsFile Open(string folder)
    {
        string path = Path.Combine(folder, WeightsFile);
        if (!PretrainedFile.Exists(path) && PretrainedFile.Exists(Path.Combine(folder, "adapter_model.bin")))
            throw new FileNotFoundException(
                $"'{folder}' has its adapter in adapter_model.bin, which may run code when it is read. Save it again with PEFT's " +
                "save_pretrained, which writes safetensors.", path);
        return new SafetensorsFile(path);
    }

    private static void Compare(
        string folder, PeftConfig config, Dictionary<string, long[]> waiting, Dictionary<string, TensorInfo> inFile)
    {
        var comparison = new WeightComparison();
        foreach (var (name, shape) in waiting)
        {
            if (inFile.TryGetValue(name, out var tensor))
                comparison.Both(tensor, shape, "F32", "F16", "BF16");
            else
                comparison.Missing(name);
        }
        foreach (string name in inFile.Keys.Except(waiting.Keys))
            comparison.Extra(name);
        foreach (string target in config.Targets.Where(target =>
            !waiting.Keys.Any(name => name.EndsWith(PartA, StringComparison.Ordinal) && CausalLanguageModel.Means(target, name[..^PartA.Length]))))
            comparison.Missing(target + PartA);
        if (comparison.Problem() is { } problem)
            throw new FormatException(
                $"The adapter in '{folder}' does not fit the model: {problem}. Load it into the model that it was trained on, or " +
                "download or save it again, as a whole.");
        if (waiting.Count == 0)
            throw new FormatException($"The adapter in '{folder}' has no tensors. Download or save it again, as a whole.");
    }

    private static readonly JsonSerializerOptions s_indented =
        new() { WriteIndented = true, NewLine = "\n", Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };
}
