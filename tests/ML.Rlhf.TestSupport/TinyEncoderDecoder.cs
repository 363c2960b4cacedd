using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.TestSupport;

/// <summary>Encoder–decoders so small that a test can train one.</summary>
internal static class TinyEncoderDecoder
{
    public static EncoderDecoderArchitecture Architecture { get; } =
        new() { Layers = 2, Heads = 2, Width = 16, FeedForwardWidth = 24, ContextLength = 16, VocabularySize = 19 };

    /// <summary>A model as training starts with it. In evaluation mode.</summary>
    public static EncoderDecoder Fresh(int seed = 0, EncoderDecoderArchitecture? architecture = null)
    {
        using var generator = new Generator((ulong)seed, CPU);
        var model = new EncoderDecoder(architecture ?? Architecture, generator);
        model.eval();
        return model;
    }

    /// <summary>A model with opinions: every parameter is far from its initial value, so that a forgotten bias or norm shows.</summary>
    public static EncoderDecoder Random(int seed = 0)
    {
        var model = Fresh(seed);
        TinyGpt.Disturb(model, seed);
        return model;
    }
}
