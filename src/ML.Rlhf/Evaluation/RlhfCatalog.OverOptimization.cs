using Microsoft.ML;

namespace ML.Rlhf;

public sealed partial class RlhfCatalog
{
    /// <summary>
    /// Measures a policy by the reward that it was trained for and by the one that is meant, and how far it went from its start: a point of
    /// the curve of gold against proxy. Policies trained with several KL coefficients give the curve, and <see cref="OverOptimization"/>
    /// fits it.
    /// </summary>
    /// <param name="policy">The policy. It answers with its own <see cref="TextGenerationTransformer.Sampling"/>, without top-k and
    /// top-p. The start itself is the point at KL 0.</param>
    /// <param name="reference">The model that it was trained from; it needs the same tokenizer.</param>
    /// <param name="proxy">The reward that the policy was trained for.</param>
    /// <param name="gold">The reward that is meant.</param>
    /// <param name="prompts">Held-out prompts. Those that fill the model's context are left out, with a warning.</param>
    /// <param name="promptColumnName">The text column of prompts.</param>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    /// <exception cref="ArgumentException">The tokenizers differ, the policy samples with top-k, top-p or temperature 0, or a reward does
    /// not fit.</exception>
    /// <exception cref="InvalidOperationException">There are no prompts that fit the model, or a reward gave a number that is not
    /// finite.</exception>
    public OverOptimizationPoint EvaluateOverOptimization(
        TextGenerationTransformer policy, TextGenerationTransformer reference, Reward proxy, Reward gold, IDataView prompts,
        string promptColumnName = TextGenerationTransformer.DefaultPromptColumn) =>
        OverOptimizationEvaluation.Policy(_context, policy, reference, proxy, gold, prompts, promptColumnName);

    /// <summary>
    /// Measures what taking the best of n answers by a proxy does to the proxy and to the gold reward: the curve of gold against proxy for
    /// many n at once, from one set of answers.
    /// </summary>
    /// <remarks>
    /// Each value is the mean over all subsets of n of a prompt's answers, an unbiased estimate of best-of-n; it is the surer, the
    /// more samples there are for an n.
    /// </remarks>
    /// <param name="policy">The policy to draw from. It answers with its own <see cref="TextGenerationTransformer.Sampling"/>.</param>
    /// <param name="proxy">The reward that chooses the best.</param>
    /// <param name="gold">The reward that is meant.</param>
    /// <param name="prompts">Held-out prompts. Those that fill the model's context are left out, with a warning.</param>
    /// <param name="samples">Answers to each prompt, at least the highest n.</param>
    /// <param name="n">The values of n; null for 1, 2, 4, … up to the samples.</param>
    /// <param name="promptColumnName">The text column of prompts.</param>
    /// <returns>One point for each n, in their order.</returns>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column, or there are no samples.</exception>
    /// <exception cref="ArgumentException">A value of n is out of its range, the policy samples with temperature 0, or a reward does not
    /// fit.</exception>
    /// <exception cref="InvalidOperationException">There are no prompts that fit the model, or a reward gave a number that is not
    /// finite.</exception>
    public IReadOnlyList<OverOptimizationPoint> EvaluateBestOfN(
        TextGenerationTransformer policy, Reward proxy, Reward gold, IDataView prompts, int samples = 64, IReadOnlyList<int>? n = null,
        string promptColumnName = TextGenerationTransformer.DefaultPromptColumn) =>
        OverOptimizationEvaluation.BestOfN(_context, policy, proxy, gold, prompts, samples, n, promptColumnName);
}
