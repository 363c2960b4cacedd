using System.Text.Json.Nodes;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Native;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Checkpoints;

/// <summary>Encoders in the Hugging Face layout: <c>config.json</c> and the weights. Tokenizer files are not its business.</summary>
internal static class EncoderCheckpoint
{
    /// <summary>
    /// What masking does not train: the pooler and the head for next sentence prediction of a BERT, and tensors that only repeat others.
    /// </summary>
    private static readonly string[] s_ignorable =
    [
        "pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids", "embeddings.token_type_ids", "cls.seq_relationship.weight",
        "cls.seq_relationship.bias", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias", "lm_head.decoder.weight",
        "lm_head.decoder.bias",
    ];

    /// <summary>Reads a model, in evaluation mode on the CPU.</summary>
    /// <param name="folder">What transformers' save_pretrained wrote, or a download.</param>
    /// <exception cref="FormatException">A file is damaged, a setting is not built here, or weights and configuration do not fit; all
    /// problems are listed.</exception>
    /// <exception cref="IOException">There is no such folder, or a file is missing.</exception>
    public static Encoder Load(string folder)
    {
        LibTorch.EnsureLoaded();
        using var weights = PretrainedWeights.Open(folder);
        var architecture = ReadConfiguration(folder) with
        {
            MaskedLanguageModelHead = weights.Tensors.Keys.Any(name =>
                name.StartsWith("cls.predictions.", StringComparison.Ordinal) || name.StartsWith("lm_head.", StringComparison.Ordinal)),
        };
        Pretrained.RequireEnough(weights, architecture, folder);
        return Pretrained.Fill(
            weights, new Encoder(architecture),
            model => model.CheckpointTensors().Select(t => (NameIn(weights, t.Name, model.CheckpointPrefix), t.Target)),
            name => s_ignorable.Any(end => name.EndsWith(end, StringComparison.Ordinal)));
    }

    /// <summary>Writes a model so that transformers reads it.</summary>
    /// <param name="model">The model.</param>
    /// <param name="folder">Made if it does not exist; a model that is there is replaced.</param>
    /// <param name="padToken">The id of the tokenizer's padding token.</param>
    /// <param name="type">Type of the numbers in the file.</param>
    /// <exception cref="IOException">The files cannot be written.</exception>
    public static void Save(Encoder model, string folder, int padToken, WeightType type = WeightType.Float32)
    {
        // A model without a head is saved as the bare model, whose names have no prefix.
        int skipped = model.Architecture.MaskedLanguageModelHead ? 0 : model.CheckpointPrefix.Length;
        Pretrained.Save(
            folder, Configuration(model.Architecture, padToken),
            () => model.CheckpointTensors().Select(t => (t.Name[skipped..], t.Target)), type);
    }

    /// <summary>BERT's first checkpoints call a norm's weight and bias gamma and beta.</summary>
    private static string NameIn(PretrainedWeights weights, string name, string prefix)
    {
        string old = name.Replace("LayerNorm.weight", "LayerNorm.gamma", StringComparison.Ordinal)
            .Replace("LayerNorm.bias", "LayerNorm.beta", StringComparison.Ordinal);
        bool isOld = weights.Tensors.ContainsKey(old)
            || old.StartsWith(prefix, StringComparison.Ordinal) && weights.Tensors.ContainsKey(old[prefix.Length..]);
        return isOld ? old : name;
    }

    /// <summary>From config.json to a shape.</summary>
    /// <exception cref="FormatException">It is no encoder of these two families, or one with settings that are not built here; all are
    /// listed.</exception>
    private static EncoderArchitecture ReadConfiguration(string folder)
    {
        string path = Path.Combine(folder, PretrainedConfig.FileName);
        using var json = PretrainedJson.Read(path);
        var config = new ConfigReader(json.RootElement);
        string type = config.Text("model_type") ?? "";
        config.Refuse(type is not ("bert" or "roberta"), "model_type", "bert or roberta");
        config.Refuse(config.Has("quantization_config"), "quantization_config", "a model of F32, F16 or BF16 numbers");
        config.Refuse(config.Text("hidden_act") is not (null or "gelu"), "hidden_act", "gelu");
        config.Refuse(config.Text("position_embedding_type") is not (null or "absolute"), "position_embedding_type", "absolute");
        config.Refuse(config.Flag("is_decoder", false), "is_decoder", "false");
        config.Refuse(config.Flag("add_cross_attention", false), "add_cross_attention", "false");
        config.Refuse(!config.Flag("tie_word_embeddings", true), "tie_word_embeddings", "true");

        bool roberta = type == "roberta";
        int offset = roberta ? (config.OptionalInteger("pad_token_id") ?? 1) + 1 : 0;
        var architecture = new EncoderArchitecture
        {
            Family = roberta ? EncoderFamily.Roberta : EncoderFamily.Bert,
            Layers = config.Integer("num_hidden_layers"),
            Heads = config.Integer("num_attention_heads"),
            Width = config.Integer("hidden_size"),
            FeedForwardWidth = config.Integer("intermediate_size"),
            ContextLength = config.Integer("max_position_embeddings") - offset,
            VocabularySize = config.Integer("vocab_size"),
            SegmentTypes = config.OptionalInteger("type_vocab_size") ?? 2,
            NormEpsilon = config.OptionalNumber("layer_norm_eps") ?? 1e-12,
            PositionOffset = offset,
        };
        config.Include(architecture.Validate);
        config.Throw(path);
        return architecture;
    }

    private static JsonObject Configuration(EncoderArchitecture a, int padToken)
    {
        bool roberta = a.Family == EncoderFamily.Roberta;
        return new JsonObject
        {
            ["architectures"] = new JsonArray((roberta ? "Roberta" : "Bert") + (a.MaskedLanguageModelHead ? "ForMaskedLM" : "Model")),
            ["model_type"] = roberta ? "roberta" : "bert",
            ["vocab_size"] = a.VocabularySize,
            ["hidden_size"] = a.Width,
            ["num_hidden_layers"] = a.Layers,
            ["num_attention_heads"] = a.Heads,
            ["intermediate_size"] = a.FeedForwardWidth,
            ["max_position_embeddings"] = a.PositionRows,
            ["type_vocab_size"] = a.SegmentTypes,
            ["layer_norm_eps"] = a.NormEpsilon,
            ["hidden_act"] = "gelu",
            ["position_embedding_type"] = "absolute",
            ["pad_token_id"] = roberta ? a.PositionOffset - 1 : padToken, // RoBERTa's positions begin behind it
            ["tie_word_embeddings"] = true,
        };
    }
}
