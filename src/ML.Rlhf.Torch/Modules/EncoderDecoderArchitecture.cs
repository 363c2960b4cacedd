namespace ML.Rlhf;

/// <summary>
/// The shape of an encoder–decoder, the original transformer (Vaswani et al. 2017, arXiv 1706.03762): the encoder reads a prompt in both
/// directions, the decoder writes the completion and looks at what the encoder read.
/// </summary>
/// <remarks>
/// <see cref="LanguageModelArchitecture.Layers"/> are those of the encoder, and as many again of the decoder.
/// <see cref="LanguageModelArchitecture.ContextLength"/> is the most tokens of a prompt, and of a completion: each has it to itself.
/// </remarks>
public sealed record EncoderDecoderArchitecture : LanguageModelArchitecture
{
    /// <summary>Attention heads per attention layer.</summary>
    /// <value>At least 1, and a divisor of <see cref="LanguageModelArchitecture.Width"/>.</value>
    public required int Heads { get; init; }

    /// <summary>Hidden numbers of a feed-forward layer, the paper's d_ff.</summary>
    /// <value>At least 1. The paper has four times the width.</value>
    public required int FeedForwardWidth { get; init; }

    /// <summary>2 + 2 layers × 64, context 64: trains in seconds, for tests and first steps. 0.3 M parameters.</summary>
    public static EncoderDecoderArchitecture Tiny { get; } =
        new() { Layers = 2, Heads = 4, Width = 64, FeedForwardWidth = 256, ContextLength = 64, VocabularySize = 512 };

    /// <summary>
    /// The paper's base model: 6 + 6 layers × 512, 8 heads. 63 M parameters with the 37,000 tokens of its English–German vocabulary; its
    /// table 3 counts 65 M. The paper names no context length; 512 is its successors'.
    /// </summary>
    public static EncoderDecoderArchitecture Base { get; } =
        new() { Layers = 6, Heads = 8, Width = 512, FeedForwardWidth = 2048, ContextLength = 512, VocabularySize = 37_000 };

    /// <summary>The paper's big model: 6 + 6 layers × 1,024, 16 heads. 214 M parameters; it was trained with a dropout of 0.3.</summary>
    public static EncoderDecoderArchitecture Big { get; } =
        Base with { Heads = 16, Width = 1024, FeedForwardWidth = 4096 };

    /// <summary>
    /// Trainable numbers of a model of this shape. Encoder, decoder and head share one embedding; positions are computed, not learned.
    /// </summary>
    public override long ParameterCount
    {
        get
        {
            long width = Width, attention = 4 * (width * width + width), norm = 2 * width;
            long feedForward = 2 * width * FeedForwardWidth + FeedForwardWidth + width;
            long encoderLayer = attention + feedForward + 2 * norm, decoderLayer = 2 * attention + feedForward + 3 * norm;
            return VocabularySize * width + Layers * (encoderLayer + decoderLayer);
        }
    }

    private protected override void Check(OptionProblems problems)
    {
        base.Check(problems);
        problems.Require(Heads >= 1, nameof(Heads), Heads, "at least 1");
        problems.Require(Width is >= 2 and <= MaximumWidth && Width % 2 == 0 && Heads >= 1 && Width % Heads == 0, nameof(Width), Width,
            $"an even multiple of {nameof(Heads)} ({Heads}), at most {MaximumWidth}");
        problems.Require(FeedForwardWidth is >= 1 and <= MaximumWidth, nameof(FeedForwardWidth), FeedForwardWidth,
            $"from 1 to {MaximumWidth}");
        problems.Require(TiedHead, nameof(TiedHead), TiedHead, "true: the head is the embedding");
    }
}
