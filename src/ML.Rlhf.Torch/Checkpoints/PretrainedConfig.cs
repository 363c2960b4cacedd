using System.Text.Json;
using System.Text.Json.Nodes;
using ML.Rlhf.Torch.Modules;

namespace ML.Rlhf.Torch.Checkpoints;

/// <summary>What <c>config.json</c> says of a language model, in the forms that transformers 4 and 5 write.</summary>
/// <param name="Architecture">The shape.</param>
/// <param name="IsScalar">Whether the model is a sequence classifier with one label: a reward model.</param>
internal sealed record PretrainedConfig(LanguageModelArchitecture Architecture, bool IsScalar)
{
    public const string FileName = "config.json";

    private const string Classifier = "ForSequenceClassification";

    /// <summary>Model types, and the class that each has in transformers.</summary>
    private static readonly Dictionary<string, string> s_classes = new()
    {
        ["gpt2"] = "GPT2", ["openai-gpt"] = "OpenAIGPT", ["llama"] = "Llama", ["mistral"] = "Mistral", ["qwen2"] = "Qwen2",
        ["qwen3"] = "Qwen3",
    };

    /// <exception cref="FormatException">The model is of a kind that is not built here, or its settings are; all are listed.</exception>
    public static PretrainedConfig Read(string folder)
    {
        string path = Path.Combine(folder, FileName);
        using var json = PretrainedJson.Read(path);
        var config = new ConfigReader(json.RootElement);
        string type = config.Text("model_type") ?? "";
        if (!s_classes.ContainsKey(type))
        {
            config.Problem($"model_type is \"{type}\", and these are supported: {string.Join(", ", s_classes.Keys)}");
            config.Throw(path);
        }
        config.Refuse(config.Has("quantization_config"), "quantization_config", "a model of F32, F16 or BF16 numbers");

        string? kind = config.Texts("architectures").FirstOrDefault();
        bool scalar = kind?.EndsWith(Classifier, StringComparison.Ordinal) ?? false;
        if (kind is not null && !scalar && !kind.EndsWith("LMHeadModel", StringComparison.Ordinal)
            && !kind.EndsWith("ForCausalLM", StringComparison.Ordinal) && !kind.EndsWith("Model", StringComparison.Ordinal))
            config.Refuse(true, "architectures", "a causal language model or a sequence classifier");
        if (scalar)
            RequireOneLabel(config);

        LanguageModelArchitecture architecture = type is "gpt2" or "openai-gpt" ? ReadGpt(config, type) : ReadLlama(config, type);
        if (scalar)
            architecture = architecture with { TiedHead = true }; // a classifier has no head of the vocabulary
        config.Include(architecture.Validate);
        config.Throw(path);
        return new PretrainedConfig(architecture, scalar);
    }

    private static void RequireOneLabel(ConfigReader config)
    {
        int? named = config.Has("id2label") && config["id2label"] is { ValueKind: JsonValueKind.Object } names
            ? names.EnumerateObject().Count()
            : null;
        int labels = config.OptionalInteger("num_labels") ?? named ?? 2; // two is transformers' default
        if (labels != 1)
            config.Problem($"it has {labels} labels, and a reward model has one");
    }

    private static GptArchitecture ReadGpt(ConfigReader config, string type)
    {
        bool first = type == "openai-gpt";
        string activationName = first ? "afn" : "activation_function";
        string activation = config.Text(activationName) ?? (first ? "gelu" : "gelu_new");
        config.Refuse(!config.Flag("scale_attn_weights", true), "scale_attn_weights", "true");
        config.Refuse(config.Flag("scale_attn_by_inverse_layer_idx", false), "scale_attn_by_inverse_layer_idx", "false");
        config.Refuse(config.Flag("add_cross_attention", false), "add_cross_attention", "false");
        return new GptArchitecture
        {
            Layers = config.Integer("n_layer"),
            Heads = config.Integer("n_head"),
            Width = config.Integer("n_embd"),
            ContextLength = config.Integer("n_positions"),
            VocabularySize = config.Integer("vocab_size"),
            FeedForwardWidth = config.OptionalInteger("n_inner"),
            Norms = first ? NormPlacement.After : NormPlacement.Before,
            Activation = (activation, first) switch
            {
                ("gelu", true) or ("gelu_new" or "gelu_fast" or "gelu_pytorch_tanh", _) => Activation.GeluTanh,
                ("gelu", false) => Activation.Gelu,
                ("relu", _) => Activation.Relu,
                _ => Unsupported(config, activationName, "gelu_new, gelu or relu"),
            },
            NormEpsilon = config.OptionalNumber("layer_norm_epsilon") ?? 1e-5,
            TiedHead = config.Flag("tie_word_embeddings", true),
        };
    }

    private static Activation Unsupported(ConfigReader config, string name, string supported)
    {
        config.Refuse(true, name, supported);
        return default;
    }

    private static LlamaArchitecture ReadLlama(ConfigReader config, string type)
    {
        config.Refuse(config.Text("hidden_act") is not (null or "silu" or "swish"), "hidden_act", "\"silu\"");
        int context = config.Integer("max_position_embeddings");
        bool attentionBias = config.Flag("attention_bias", false);
        int heads = config.Integer("num_attention_heads"), width = config.Integer("hidden_size");
        int? headWidth = config.OptionalInteger("head_dim") ?? (type == "qwen3" ? 128 : null);
        int? keyHeads = config.OptionalInteger("num_key_value_heads");
        return new LlamaArchitecture
        {
            Layers = config.Integer("num_hidden_layers"),
            Heads = heads,
            KeyValueHeads = keyHeads == heads ? null : keyHeads,
            HeadWidth = (long?)headWidth * heads == width ? null : headWidth,
            Width = width,
            FeedForwardWidth = config.Integer("intermediate_size"),
            ContextLength = context,
            VocabularySize = config.Integer("vocab_size"),
            NormEpsilon = config.OptionalNumber("rms_norm_eps") ?? 1e-6,
            AttentionBias = type == "qwen2" ? AttentionBias.QueryKeyValue : attentionBias ? AttentionBias.All : AttentionBias.None,
            FeedForwardBias = config.Flag("mlp_bias", false),
            QueryKeyNorm = type == "qwen3",
            SlidingWindow = ReadWindow(config, type),
            Positions = ReadPositions(config, context),
            TiedHead = config.Flag("tie_word_embeddings", false),
        };
    }

    /// <summary>Transformers' window where the file does not speak of any; null there is none.</summary>
    private const int DefaultWindow = 4096;

    /// <summary>The window of all layers. Qwen can have one in some layers only, which is not built here.</summary>
    private static int? ReadWindow(ConfigReader config, string type)
    {
        if (type == "llama" || type != "mistral" && !config.Flag("use_sliding_window", false))
            return null;
        int? window = config.OptionalInteger("sliding_window", DefaultWindow);
        if (window is null || type == "mistral")
            return window;
        int layers = config.Integer("num_hidden_layers");
        int sliding = config.Has("layer_types")
            ? config.Texts("layer_types").Count(layer => layer == "sliding_attention")
            : Math.Max(0, layers - (config.OptionalInteger("max_window_layers") ?? 28));
        if (sliding > 0 && sliding < layers)
            config.Problem($"{sliding} of {layers} layers have a sliding window, and all or none is supported");
        return sliding > 0 ? window : null;
    }

    private static RotaryPositions ReadPositions(ConfigReader config, int context)
    {
        var rope = config.Section(config.Has("rope_parameters") ? "rope_parameters" : "rope_scaling");
        config.Refuse(config.OptionalNumber("partial_rotary_factor") is not (null or 1), "partial_rotary_factor", "1");
        rope.Refuse(rope.OptionalNumber("partial_rotary_factor") is not (null or 1), "partial_rotary_factor", "1");
        string typeName = rope.Has("rope_type") ? "rope_type" : "type";
        var scaling = rope.Text(typeName) switch
        {
            null or "default" => RotaryScaling.None,
            "linear" => RotaryScaling.Linear,
            "dynamic" => RotaryScaling.Dynamic,
            "yarn" => RotaryScaling.Yarn,
            "llama3" => RotaryScaling.Llama3,
            _ => (RotaryScaling)(-1),
        };
        if (scaling < 0)
        {
            rope.Refuse(true, typeName, "one of default, linear, dynamic, yarn, llama3");
            return new RotaryPositions();
        }
        int original = config.OptionalInteger("original_max_position_embeddings")
            ?? rope.OptionalInteger("original_max_position_embeddings") ?? context;
        double factor = scaling switch
        {
            RotaryScaling.None => 1,
            RotaryScaling.Yarn => rope.OptionalNumber("factor") ?? (double)context / Math.Max(original, 1),
            _ => rope.Number("factor"),
        };
        return new RotaryPositions
        {
            Theta = rope.OptionalNumber("rope_theta") ?? config.OptionalNumber("rope_theta") ?? 10_000,
            Scaling = scaling,
            Factor = factor,
            OriginalContextLength = scaling is RotaryScaling.Yarn or RotaryScaling.Llama3 ? original : null,
            LowFrequencyFactor = rope.OptionalNumber("low_freq_factor") ?? 1,
            HighFrequencyFactor = rope.OptionalNumber("high_freq_factor") ?? 4,
            BetaFast = rope.OptionalNumber("beta_fast") ?? 32,
            BetaSlow = rope.OptionalNumber("beta_slow") ?? 1,
            AttentionFactor = rope.OptionalNumber("attention_factor") ?? AttentionFactor(rope, factor),
            RoundRange = rope.Flag("truncate", true),
        };
    }

    /// <summary>DeepSeek's way to say it: two scales of the logarithm, one over the other.</summary>
    private static double? AttentionFactor(ConfigReader rope, double factor)
    {
        double Scaled(double scale) => factor <= 1 ? 1 : 0.1 * scale * Math.Log(factor) + 1;
        return rope.OptionalNumber("mscale") is { } scale and not 0 && rope.OptionalNumber("mscale_all_dim") is { } all and not 0
            ? Scaled(scale) / Scaled(all)
            : null;
    }

    /// <summary>The content of a <c>config.json</c> for a model of this shape.</summary>
    /// <param name="architecture">The shape.</param>
    /// <param name="scalar">Whether it is that of a reward model.</param>
    /// <param name="endToken">The id that ends a text, or null.</param>
    /// <param name="beginToken">The id that a text begins with; null where that is the one that ends the text before.</param>
    /// <exception cref="NotSupportedException">No model type of transformers has this combination of settings.</exception>
    public static JsonObject Write(LanguageModelArchitecture architecture, bool scalar, int? endToken, int? beginToken = null)
    {
        string type = TypeOf(architecture);
        string kind = scalar ? Classifier : architecture is GptArchitecture ? "LMHeadModel" : "ForCausalLM";
        var config = new JsonObject
        {
            ["architectures"] = new JsonArray(s_classes[type] + kind),
            ["model_type"] = type,
            ["vocab_size"] = architecture.VocabularySize,
            ["tie_word_embeddings"] = architecture.TiedHead,
            ["bos_token_id"] = beginToken ?? endToken,
            ["eos_token_id"] = endToken,
        };
        if (scalar)
        {
            config["id2label"] = new JsonObject { ["0"] = "LABEL_0" };
            config["label2id"] = new JsonObject { ["LABEL_0"] = 0 };
        }
        if (architecture is GptArchitecture gpt)
            Write(config, gpt);
        else
            Write(config, (LlamaArchitecture)architecture, type);
        return config;
    }

    private static string TypeOf(LanguageModelArchitecture architecture) => architecture switch
    {
        GptArchitecture { Norms: NormPlacement.Before } => "gpt2",
        GptArchitecture { Activation: Activation.GeluTanh or Activation.Relu, FeedForwardWidth: null, TiedHead: true } => "openai-gpt",
        LlamaArchitecture { QueryKeyNorm: true, AttentionBias: not AttentionBias.QueryKeyValue, FeedForwardBias: false } => "qwen3",
        LlamaArchitecture { QueryKeyNorm: false, AttentionBias: AttentionBias.QueryKeyValue, FeedForwardBias: false } => "qwen2",
        LlamaArchitecture
        {
            QueryKeyNorm: false, AttentionBias: AttentionBias.None, FeedForwardBias: false, SlidingWindow: not null
        } => "mistral",
        LlamaArchitecture { QueryKeyNorm: false, AttentionBias: not AttentionBias.QueryKeyValue, SlidingWindow: null } => "llama",
        _ => throw new NotSupportedException(
            $"No model of Hugging Face's transformers has the shape {architecture}. Save it in a model.zip with ml.Model.Save instead."),
    };

    private static void Write(JsonObject config, GptArchitecture a)
    {
        config["n_layer"] = a.Layers;
        config["n_head"] = a.Heads;
        config["n_embd"] = a.Width;
        config["n_positions"] = a.ContextLength;
        config["layer_norm_epsilon"] = a.NormEpsilon;
        string activation = a.Activation switch { Activation.GeluTanh => "gelu_new", Activation.Gelu => "gelu", _ => "relu" };
        if (a.Norms == NormPlacement.After)
        {
            config["afn"] = a.Activation == Activation.Relu ? "relu" : "gelu"; // this model type's "gelu" is the tanh form
            return;
        }
        config["activation_function"] = activation;
        config["n_inner"] = a.FeedForwardWidth;
    }

    private static void Write(JsonObject config, LlamaArchitecture a, string type)
    {
        config["num_hidden_layers"] = a.Layers;
        config["num_attention_heads"] = a.Heads;
        config["num_key_value_heads"] = a.KeyHeads;
        config["head_dim"] = a.WidthPerHead;
        config["hidden_size"] = a.Width;
        config["intermediate_size"] = a.FeedForwardWidth;
        config["max_position_embeddings"] = a.ContextLength;
        config["rms_norm_eps"] = a.NormEpsilon;
        config["hidden_act"] = "silu";
        config["attention_bias"] = a.AttentionBias == AttentionBias.All;
        config["mlp_bias"] = a.FeedForwardBias;
        if (type != "llama")
            config["sliding_window"] = a.SlidingWindow;
        if (type is "qwen2" or "qwen3")
        {
            bool sliding = a.SlidingWindow is not null;
            config["use_sliding_window"] = sliding;
            if (sliding)
                config["max_window_layers"] = 0;
            config["layer_types"] = new JsonArray(
                [.. Enumerable.Repeat(sliding ? "sliding_attention" : "full_attention", a.Layers).Select(t => JsonValue.Create(t))]);
        }
        config["rope_theta"] = a.Positions.Theta; // transformers 4 reads these two, transformers 5 the third
        config["rope_scaling"] = a.Positions.Scaling == RotaryScaling.None ? null : Write(a.Positions);
        config["rope_parameters"] = Write(a.Positions);
    }

    private static JsonObject Write(RotaryPositions p)
    {
        string type = p.Scaling switch { RotaryScaling.None => "default", _ => p.Scaling.ToString().ToLowerInvariant() };
        var rope = new JsonObject { ["rope_type"] = type, ["rope_theta"] = p.Theta };
        if (p.Scaling != RotaryScaling.None)
            rope["factor"] = p.Factor;
        if (p.OriginalContextLength is { } original)
            rope["original_max_position_embeddings"] = original;
        if (p.Scaling == RotaryScaling.Llama3)
        {
            rope["low_freq_factor"] = p.LowFrequencyFactor;
            rope["high_freq_factor"] = p.HighFrequencyFactor;
        }
        if (p.Scaling == RotaryScaling.Yarn)
        {
            rope["beta_fast"] = p.BetaFast;
            rope["beta_slow"] = p.BetaSlow;
            if (p.AttentionFactor is { } factor)
                rope["attention_factor"] = factor;
            rope["truncate"] = p.RoundRange;
        }
        return rope;
    }
}
