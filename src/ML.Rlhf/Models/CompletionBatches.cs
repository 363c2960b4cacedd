using ML.Rlhf.Torch;
using ML.Rlhf.Torch.Generation;
using ML.Rlhf.Torch.Training;

namespace ML.Rlhf;

/// <summary>How prompts are completed together, and yet each as if it stood alone.</summary>
internal static class CompletionBatches
{
    /// <summary>Rows that a column reads ahead, and a model completes at once.</summary>
    public const int Size = 64;

    /// <summary>Completes prompts in batches of similar length.</summary>
    /// <param name="prompts">In tokens; several answers to one prompt stand side by side.</param>
    /// <param name="seed">The seed of the sampling options.</param>
    /// <param name="draw">Completes one batch, each prompt with its own randomness.</param>
    /// <param name="answersPerPrompt">How many times each prompt stands there.</param>
    /// <returns>The completions in the order of the prompts.</returns>
    public static SampledTokens[] Draw(
        int[][] prompts, int seed, Func<int[][], RandomStream[], SampledTokens[]> draw, int answersPerPrompt = 1)
    {
        var results = new SampledTokens[prompts.Length];
        foreach (int[] rows in Batches.ByLength(prompts.Length, Size, i => prompts[i].Length))
        {
            var drawn = draw(
                Array.ConvertAll(rows, i => prompts[i]),
                Array.ConvertAll(rows, i => RandomnessOf(prompts[i], seed, i % answersPerPrompt)));
            for (int i = 0; i < rows.Length; i++)
                results[rows[i]] = drawn[i];
        }
        return results;
    }

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
