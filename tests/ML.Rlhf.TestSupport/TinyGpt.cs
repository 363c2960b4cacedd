using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace ML.Rlhf.TestSupport;

/// <summary>Models so small that a test can train one.</summary>
internal static class TinyGpt
{
    public static GptArchitecture Architecture { get; } =
        new() { Layers = 2, Heads = 2, Width = 16, ContextLength = 24, VocabularySize = 19 };

    /// <summary>A model as training starts with it: nearly uniform over its vocabulary. In evaluation mode.</summary>
    public static Gpt Fresh(int seed = 0, GptArchitecture? architecture = null)
    {
        using var generator = new Generator((ulong)seed, CPU);
        var model = new Gpt(architecture ?? Architecture, generator);
        model.eval();
        return model;
    }

    /// <summary>
    /// A model with opinions: every parameter is far from its initial value, so that a forgotten bias, norm or position shows.
    /// </summary>
    public static Gpt Random(int seed = 0, GptArchitecture? architecture = null)
    {
        var model = Fresh(seed, architecture);
        Disturb(model, seed);
        return model;
    }

    /// <summary>A scalar head on a <see cref="Random"/> trunk; the head and its bias are random too.</summary>
    public static ScalarGpt RandomScalar(int seed = 0, GptArchitecture? architecture = null)
    {
        var model = new ScalarGpt(Fresh(seed, architecture), generator: null);
        Disturb(model, seed);
        model.eval();
        return model;
    }

    /// <summary>Copies of all parameters, by name.</summary>
    public static Dictionary<string, Tensor> Snapshot(Module model) =>
        model.named_parameters().ToDictionary(p => p.name, p => p.parameter.detach().clone());

    /// <summary>Moves every parameter far from its initial value.</summary>
    public static void Disturb(Module model, int seed)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        using var generator = new Generator((ulong)seed + 1, CPU);
        foreach (var parameter in model.parameters())
            parameter.add_(randn(parameter.shape, generator: generator) * 0.3);
    }
}
