using System.Text.Json;
using System.Text.Json.Nodes;
using ML.Rlhf.Torch.Modules;

namespace ML.Rlhf.Torch.Checkpoints;

/// <summary>
/// <c>adapter_config.json</c> of PEFT, as far as it decides what adapters compute. Source: <c>LoraConfig</c> in peft/tuners/lora/config.py.
/// </summary>
internal sealed class PeftConfig
{
    public const string FileName = "adapter_config.json";
    public const string CausalLanguageModel = "CAUSAL_LM", SequenceClassifier = "SEQ_CLS";

    private const int DefaultRank = 8;
    private const double DefaultAlpha = 8;

    /// <summary>Settings that change what is computed, in ways that are not built here: only these values do nothing.</summary>
    private static readonly (string Name, string[] Harmless)[] s_unsupported =
    [
        ("bias", ["none"]), ("use_dora", ["false"]), ("lora_bias", ["false"]), ("use_qalora", ["false"]), ("use_bdlora", ["false"]),
        ("layer_replication", []), ("target_parameters", ["[]"]), ("trainable_token_indices", ["[]", "{}"]),
        ("alora_invocation_tokens", ["[]"]), ("arrow_config", []), ("megatron_config", []),
        ("init_lora_weights", ["true", "false", "gaussian", "eva", "orthogonal"]), // the others change the model's own weights
    ];

    private readonly Dictionary<string, int> _ranks = [];
    private readonly Dictionary<string, double> _alphas = [];

    private PeftConfig() { }

    /// <summary>What the model is for, or null where that is not said.</summary>
    public string? Task { get; private init; }

    /// <summary>Names of layers that have adapters; empty where they are described in another way.</summary>
    public string[] Targets { get; private init; } = [];

    private int Rank { get; init; }

    private double Alpha { get; init; }

    private double Dropout { get; init; }

    private bool IsRankStabilized { get; init; }

    /// <summary>The adapter of a layer.</summary>
    /// <param name="path">Its path in our model.</param>
    /// <param name="module">Its path in the checkpoint.</param>
    public AdapterShape ShapeOf(string path, string module)
    {
        int rank = Of(_ranks, module, Rank);
        double alpha = Of(_alphas, module, Alpha);
        return new AdapterShape(path, rank, IsRankStabilized ? alpha * Math.Sqrt(rank) : alpha, Dropout);
    }

    private static T Of<T>(Dictionary<string, T> pattern, string module, T otherwise) =>
        pattern.Where(p => Modules.CausalLanguageModel.Means(p.Key, module)).Select(p => p.Value).Append(otherwise).First();

    /// <summary>Reads the file of a folder.</summary>
    /// <exception cref="FormatException">It is no valid configuration, or asks for what is not built here; all problems are listed.
    /// </exception>
    /// <exception cref="IOException">There is no such file.</exception>
    public static PeftConfig Read(string folder)
    {
        string path = Path.Combine(folder, FileName);
        using var document = PretrainedJson.Read(path);
        var problems = new List<string>();
        PeftConfig? config = null;
        try
        {
            config = Parse(document.RootElement, problems);
        }
        catch (InvalidOperationException e) // half of a surrogate pair
        {
            problems.Add(e.Message.TrimEnd('.'));
        }
        return problems.Count == 0 ? config! : throw new FormatException(
            $"'{path}' is not an adapter that can be used here: {string.Join("; ", problems)}. Adapters of plain LoRA are read; merge " +
            "others into their model with PEFT's merge_and_unload, and load that.");
    }

    private static PeftConfig Parse(JsonElement json, List<string> problems)
    {
        if (json.ValueKind != JsonValueKind.Object)
        {
            problems.Add("it is no object");
            return new PeftConfig();
        }
        if (Text(json, "peft_type") is var type && type != "LORA")
            problems.Add($"peft_type is {SafetensorsHeader.Quoted(type ?? "null")}, but must be 'LORA'");
        foreach (var (name, harmless) in s_unsupported)
        {
            if (Text(json, name) is { } value && !harmless.Contains(value))
                problems.Add($"{name} is {SafetensorsHeader.Quoted(value)}, but must be {string.Join(", ", harmless.Append("null"))}");
        }
        string? task = Text(json, "task_type");
        if (task is not (null or CausalLanguageModel or SequenceClassifier))
            problems.Add($"task_type is {SafetensorsHeader.Quoted(task)}, but must be {CausalLanguageModel} or {SequenceClassifier}");

        var config = new PeftConfig
        {
            Task = task,
            Targets = json.TryGetProperty("target_modules", out var targets) && targets.ValueKind == JsonValueKind.Array
                ? [.. targets.EnumerateArray().Where(t => t.ValueKind == JsonValueKind.String).Select(t => t.GetString()!)] : [],
            Rank = json.TryGetProperty("r", out var r) ? WholeNumber(r, "r", problems) : DefaultRank,
            Alpha = json.TryGetProperty("lora_alpha", out var alpha) ? Number(alpha, "lora_alpha", problems) : DefaultAlpha,
            Dropout = json.TryGetProperty("lora_dropout", out var dropout) && dropout.ValueKind == JsonValueKind.Number
                && dropout.TryGetDouble(out double p) && p is >= 0 and < 1 ? p : 0, // it changes no answer
            IsRankStabilized = Text(json, "use_rslora") == "true",
        };
        ReadPattern(json, "rank_pattern", config._ranks, WholeNumber, problems);
        ReadPattern(json, "alpha_pattern", config._alphas, Number, problems);
        return config;
    }

    /// <summary>A value as text, or null where there is none.</summary>
    private static string? Text(JsonElement json, string name) => !json.TryGetProperty(name, out var value) ? null : value.ValueKind switch
    {
        JsonValueKind.Null => null,
        JsonValueKind.String => value.GetString(),
        _ => value.GetRawText(),
    };

    private static int WholeNumber(JsonElement value, string name, List<string> problems)
    {
        if (value.ValueKind == JsonValueKind.Number && value.TryGetInt32(out int number) && number >= 1)
            return number;
        problems.Add($"{name} is {SafetensorsHeader.Quoted(value.GetRawText())}, but must be a whole number above 0");
        return 1;
    }

    private static double Number(JsonElement value, string name, List<string> problems)
    {
        if (value.ValueKind == JsonValueKind.Number && value.TryGetDouble(out double number) && number > 0 && double.IsFinite(number))
            return number;
        problems.Add($"{name} is {SafetensorsHeader.Quoted(value.GetRawText())}, but must be a finite number above 0");
        return 1;
    }

    /// <summary>Layers that differ from the others. Keys are regular expressions in PEFT; names are read, which are all that people write.
    /// </summary>
    private static void ReadPattern<T>(
        JsonElement json, string name, Dictionary<string, T> into, Func<JsonElement, string, List<string>, T> read, List<string> problems)
    {
        if (!json.TryGetProperty(name, out var pattern) || pattern.ValueKind == JsonValueKind.Null)
            return;
        if (pattern.ValueKind != JsonValueKind.Object)
        {
            problems.Add($"{name} is no object");
            return;
        }
        foreach (var entry in pattern.EnumerateObject())
        {
            if (entry.Name.Length == 0 || !entry.Name.All(c => char.IsAsciiLetterOrDigit(c) || c is '_' or '.'))
                problems.Add(
                    $"{name} has the regular expression {SafetensorsHeader.Quoted(entry.Name)}, and only names of layers are read");
            else
                into[entry.Name] = read(entry.Value, $"{name}[{entry.Name}]", problems);
        }
    }

    /// <summary>The file of adapters as they are.</summary>
    /// <param name="model">The model that has them.</param>
    /// <param name="isScalar">Whether it has a scalar head, which learned too.</param>
    /// <param name="baseModel">What PEFT will load the model itself from, or null.</param>
    public static JsonObject Write(CausalLanguageModel model, bool isScalar, string? baseModel)
    {
        var shapes = model.Adapters.Select(adapter => (adapter.Shape, Module: ModuleName(model, adapter.Shape.Target))).ToArray();
        var most = shapes.CountBy(s => (s.Shape.Rank, s.Shape.Alpha)).MaxBy(s => s.Value).Key;
        JsonObject Others<T>(Func<AdapterShape, T> of, T usual) => new(shapes
            .Where(s => !of(s.Shape)!.Equals(usual))
            .Select(s => KeyValuePair.Create(s.Module, (JsonNode?)JsonValue.Create(of(s.Shape)))));
        return new JsonObject
        {
            ["alpha_pattern"] = Others(s => s.Alpha, most.Alpha),
            ["base_model_name_or_path"] = baseModel,
            ["bias"] = "none",
            ["fan_in_fan_out"] = model is Gpt, // its layers are "Conv1D" there, (in, out)
            ["inference_mode"] = true,
            ["init_lora_weights"] = true,
            ["lora_alpha"] = most.Alpha,
            ["lora_dropout"] = shapes[0].Shape.Dropout,
            ["modules_to_save"] = isScalar ? new JsonArray("score") : null,
            ["peft_type"] = "LORA",
            ["r"] = most.Rank,
            ["rank_pattern"] = Others(s => s.Rank, most.Rank),
            ["target_modules"] = new JsonArray([.. TargetNames(model, shapes.Select(s => s.Shape.Target)).Select(name => (JsonNode)name)]),
            ["task_type"] = isScalar ? SequenceClassifier : CausalLanguageModel,
            ["use_dora"] = false,
            ["use_rslora"] = false,
        };
    }

    /// <summary>The path of a layer in the checkpoint.</summary>
    public static string ModuleName(CausalLanguageModel model, string path)
    {
        const string weight = ".weight";
        return model.CheckpointName(path + weight)[..^weight.Length];
    }

    /// <summary>Last parts of the names, where all layers of that name have adapters, and whole names otherwise.</summary>
    private static IEnumerable<string> TargetNames(CausalLanguageModel model, IEnumerable<string> targets)
    {
        static string LastPart(string path) => path[(path.LastIndexOf('.') + 1)..];
        var all = model.Projections().CountBy(p => LastPart(p.Path)).ToDictionary();
        return targets.GroupBy(LastPart).SelectMany(group =>
            group.Count() == all[group.Key] ? [group.Key] : group.Select(path => ModuleName(model, path)));
    }
}
