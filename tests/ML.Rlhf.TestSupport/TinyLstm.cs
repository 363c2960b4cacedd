using ML.Rlhf.Torch.Modules;
using static TorchSharp.torch;

namespace ML.Rlhf.TestSupport;

/// <summary>Recurrent models as small as <see cref="TinyGpt"/>, with the same context and vocabulary.</summary>
internal static class TinyLstm
{
    public static LstmArchitecture Architecture { get; } = new() { Layers = 2, Width = 16, ContextLength = 24, VocabularySize = 19 };

    /// <summary>A model as training starts with it. In evaluation mode.</summary>
    public static Lstm Fresh(int seed = 0, LstmArchitecture? architecture = null)
    {
        using var generator = new Generator((ulong)seed, CPU);
        var model = new Lstm(architecture ?? Architecture, generator);
        model.eval();
        return model;
    }

    /// <summary>A model with opinions: every parameter is far from its initial value.</summary>
    public static Lstm Random(int seed = 0, LstmArchitecture? architecture = null)
    {
        var model = Fresh(seed, architecture);
        TinyGpt.Disturb(model, seed);
        return model;
    }
}
