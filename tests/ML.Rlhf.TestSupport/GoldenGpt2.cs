using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace ML.Rlhf.TestSupport;

/// <summary>Models in Hugging Face's GPT-2 layout: <c>config.json</c> and <c>model.safetensors</c> in one folder.</summary>
internal static class GoldenGpt2
{
    /// <summary>The projections that Hugging Face keeps as "Conv1D" (in × out); ours are (out × in).</summary>
    private static readonly string[] s_transposed = [".c_attn.weight", ".c_proj.weight", ".c_fc.weight"];

    /// <summary>A language model, in evaluation mode.</summary>
    public static Gpt Load(string folder)
    {
        var model = new Gpt(Architecture(folder));
        Fill(model, Weights(folder), trunk: "");
        model.eval();
        return model;
    }

    /// <summary>A sequence classifier with one label, whose head has no bias, in evaluation mode.</summary>
    public static ScalarGpt LoadScalar(string folder)
    {
        var model = new ScalarGpt(new Gpt(Architecture(folder)), generator: null);
        var weights = Weights(folder);
        weights.Add("score.bias", zeros(1));
        Fill(model, weights, trunk: "transformer.");
        model.eval();
        return model;
    }

    /// <summary>The name that a parameter has in Hugging Face's files.</summary>
    public static string NameThere(string ourName) =>
        ourName.StartsWith("transformer.", StringComparison.Ordinal) || ourName.StartsWith("score.", StringComparison.Ordinal)
            ? ourName
            : "transformer." + ourName;

    private static GptArchitecture Architecture(string folder)
    {
        var config = Golden.Load(Path.Combine(folder, "config.json"));
        if (config["activation_function"].Text != "gelu_new" || config["layer_norm_epsilon"].Number != 1e-5)
            throw new NotSupportedException($"{folder}: our GPT has GPT-2's own activation (gelu_new) and epsilon (1e-5).");
        return new GptArchitecture
        {
            Layers = config["n_layer"].Integer,
            Heads = config["n_head"].Integer,
            Width = config["n_embd"].Integer,
            ContextLength = config["n_positions"].Integer,
            VocabularySize = config["vocab_size"].Integer,
        };
    }

    private static Dictionary<string, Tensor> Weights(string folder) => Golden.Tensors(Path.Combine(folder, "model.safetensors"));

    /// <summary>Fills every parameter from the file and uses everything in the file, or throws.</summary>
    private static void Fill(Module model, Dictionary<string, Tensor> weights, string trunk)
    {
        using var noGrad = no_grad();
        foreach (var (name, parameter) in model.named_parameters())
        {
            if (!weights.Remove(NameThere(name), out var value) && !weights.Remove(name[trunk.Length..], out value))
                throw new FormatException($"The file has no '{name}'.");
            if (s_transposed.Any(name.EndsWith))
                value = value.t();
            if (!value.shape.SequenceEqual(parameter.shape))
                throw new FormatException($"'{name}' is [{string.Join(", ", value.shape)}] in the file.");
            parameter.copy_(value);
        }
        if (weights.Count > 0)
            throw new FormatException($"Nothing of ours takes {string.Join(", ", weights.Keys)}.");
    }
}
