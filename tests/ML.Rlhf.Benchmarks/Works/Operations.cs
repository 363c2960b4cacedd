namespace ML.Rlhf.Benchmarks.Works;

/// <summary>Floating-point operations that a GPT cannot do without: its matrix products, and attention to the tokens before.</summary>
internal static class Operations
{
    /// <summary>Weights of the blocks' matrices.</summary>
    public static double BlockWeights(this GptArchitecture a) => a.Layers * (4.0 * a.Width * a.Width + 2.0 * a.Width * a.HiddenWidth);

    /// <summary>Weights of the head, which are the embedding's.</summary>
    public static double HeadWeights(this GptArchitecture a) => (double)a.VocabularySize * a.Width;

    /// <summary>
    /// A forward pass of the blocks over a whole row: 2 per weight and token, and 4·C per layer and pair of a token with itself or with one
    /// before it.
    /// </summary>
    public static double Trunk(this GptArchitecture a, int tokens) =>
        2 * a.BlockWeights() * tokens + 4.0 * a.Layers * a.Width * tokens * (tokens + 1) / 2;

    /// <summary>A forward pass of the head over some tokens.</summary>
    public static double Head(this GptArchitecture a, int tokens) => 2 * a.HeadWeights() * tokens;

    /// <summary>Forward and backward: the gradients of inputs and of weights cost as much as the output, each.</summary>
    public const int Learning = 3;
}
