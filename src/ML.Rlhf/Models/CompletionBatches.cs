using ML.Rlhf.Torch;
using ML.Rlhf.Torch.Generation;

namespace ML.Rlhf;

/// <summary>How prompts are completed together, and yet each as if it stood alone.</summary>
internal static class CompletionBatches
{
    /// <summary>Rows that a column reads ahead at first, and a CPU completes at once.</summary>
    public const int Size = 64;

    /// <summary>Completes prompts, each with randomness of its own.</summary>
    /// <param name="prompts">In tokens; several answers to one prompt stand side by side.</param>
    /// <param name="seed">The seed of the sampling options.</param>
    /// <param name="draw">Completes prompts with the randomness that stands beside each.</param>
    /// <param name="answersPerPrompt">How many times each prompt stands there.</param>
    /// <returns>The completions in the order of the prompts.</returns>
    public static SampledTokens[] Draw(
        int[][] prompts, int seed, Func<int[][], RandomStream[], SampledTokens[]> draw, int answersPerPrompt = 1) =>
        draw(prompts, [.. prompts.Select((prompt, i) => RandomnessOf(prompt, seed, i % answersPerPrompt))]);

    /// <summary>
    /// The randomness of a completion depends on its prompt, the seed and which answer to the prompt it is, and on nothing else. The seeds
    /// of later answers are drawn, not counted: a neighbouring seed has other answers throughout.
    /// </summary>
    public static RandomStream RandomnessOf(int[] prompt, int seed, int answer = 0)
    {
        ulong key = 14695981039346656037; // FNV-1a: string.GetHashCode differs from process to process
        foreach (int token in prompt)
            key = (key ^ (uint)token) * 1099511628211;
        ulong answerSeed = unchecked((ulong)seed);
        if (answer > 0)
            answerSeed = new RandomStream(answerSeed, (ulong)answer).NextUInt64();
        return new RandomStream(answerSeed, key);
    }
}
