using Microsoft.ML;

namespace ML.Rlhf;

public sealed partial class TransformCatalog
{
    /// <summary>
    /// Answers a prompt n times and keeps the answer that a reward scores highest. There is nothing to fit: this is the transformer itself.
    /// </summary>
    /// <param name="policy">
    /// The model that answers, with its own <see cref="TextGenerationTransformer.Sampling"/>. Its weights are shared, not copied, and each
    /// of the two transformers is disposed on its own.
    /// </param>
    /// <param name="reward">
    /// A reward model (<see cref="RewardTransformer"/>, shared like the policy), or any fitted transformer that reads the text columns
    /// <c>Prompt</c>, <c>Completion</c> or <c>Text</c> (the completion) and gives a score; it stays the caller's. It is saved with the
    /// policy, which is why it cannot be a C# function.
    /// </param>
    /// <param name="n">Answers to a prompt, at least 1. 4 to 64 are usual; a doubling adds at most ln 2 nats of divergence.</param>
    /// <param name="scoreColumnName">The reward's column that holds the score (a reward model needs none), and the column to add.</param>
    /// <exception cref="ArgumentOutOfRangeException">n is less than 1.</exception>
    /// <exception cref="ArgumentException">
    /// The policy samples with temperature 0, or the reward does not fit: it has no such score, drops rows, or has a shorter context.
    /// </exception>
    public BestOfNTransformer BestOfN(
        TextGenerationTransformer policy, ITransformer reward, int n, string scoreColumnName = RewardTransformer.DefaultScoreColumn)
    {
        ArgumentNullException.ThrowIfNull(policy);
        ArgumentNullException.ThrowIfNull(reward);
        ArgumentException.ThrowIfNullOrWhiteSpace(scoreColumnName);
        return BestOfNTransformer.Create(_context, policy, reward, n, scoreColumnName);
    }
}
