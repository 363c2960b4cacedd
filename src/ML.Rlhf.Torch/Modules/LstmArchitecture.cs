namespace ML.Rlhf;

/// <summary>
/// The shape of a recurrent language model: layers of long short-term memory (Hochreiter and Schmidhuber 1997) between the token embedding
/// and the head. All that it knows of the text so far are two vectors of <see cref="LanguageModelArchitecture.Width"/> numbers per layer.
/// </summary>
/// <remarks>
/// <para>
/// <see cref="LanguageModelArchitecture.ContextLength"/> is no part of the weights: it is how many tokens one step of training reads, and
/// so how far back gradients flow ("truncated backpropagation through time"), and the most that prompt and completion have together.
/// </para>
/// <para>The presets have about as many parameters as the <see cref="GptArchitecture"/> of the same name, with its context and
/// vocabulary.</para>
/// </remarks>
public sealed record LstmArchitecture : LanguageModelArchitecture
{
    /// <summary>2 layers × 68, context 64: the size of <see cref="GptArchitecture.Nano"/>. 0.1 M parameters.</summary>
    public static LstmArchitecture Nano { get; } = Shape(2, 68, 64, 512);

    /// <summary>2 layers × 212, context 128: the size of <see cref="GptArchitecture.Micro"/>. 0.9 M parameters.</summary>
    public static LstmArchitecture Micro { get; } = Shape(2, 212, 128, 1024);

    /// <summary>2 layers × 356, context 256: the size of <see cref="GptArchitecture.Mini"/>. 3.5 M parameters.</summary>
    public static LstmArchitecture Mini { get; } = Shape(2, 356, 256, 4096);

    /// <summary>2 layers × 760, context 256: the size of <see cref="GptArchitecture.Small"/>. 12 M parameters.</summary>
    public static LstmArchitecture Small { get; } = Shape(2, 760, 256, 4096);

    /// <inheritdoc/>
    public override long ParameterCount
    {
        get
        {
            long width = Width;
            long layer = 2 * 4 * width * width + 2 * 4 * width; // four gates of the token and of the last output, each with a bias
            return (TiedHead ? 1L : 2L) * VocabularySize * width + Layers * layer;
        }
    }

    private protected override void Check(OptionProblems problems)
    {
        base.Check(problems);
        problems.Require(Width is >= 1 and <= MaximumWidth, nameof(Width), Width, $"from 1 to {MaximumWidth}");
    }

    private static LstmArchitecture Shape(int layers, int width, int context, int vocabulary) =>
        new() { Layers = layers, Width = width, ContextLength = context, VocabularySize = vocabulary };
}
