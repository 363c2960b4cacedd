using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;
using static TorchSharp.torch;

namespace ML.Rlhf.TestSupport;

/// <summary>Encoders so small that a test can train one.</summary>
internal static class TinyEncoder
{
    public static EncoderArchitecture Architecture { get; } =
        new() { Layers = 2, Heads = 2, Width = 16, FeedForwardWidth = 24, ContextLength = 16, VocabularySize = 19 };

    /// <summary>Token 0 is the mask, 1 and 2 stand at the ends of a text.</summary>
    public static MaskingVocabulary Vocabulary { get; } = new(Architecture.VocabularySize, maskToken: 0, specialTokens: [1, 2]);

    /// <summary>An encoder as training starts with it. In evaluation mode.</summary>
    public static Encoder Fresh(int seed = 0, EncoderArchitecture? architecture = null)
    {
        using var generator = new Generator((ulong)seed, CPU);
        var model = new Encoder(architecture ?? Architecture, generator);
        model.eval();
        return model;
    }

    /// <summary>An encoder with opinions: every parameter is far from its initial value.</summary>
    public static Encoder Random(int seed = 0, EncoderArchitecture? architecture = null)
    {
        var model = Fresh(seed, architecture);
        TinyGpt.Disturb(model, seed);
        return model;
    }
}
