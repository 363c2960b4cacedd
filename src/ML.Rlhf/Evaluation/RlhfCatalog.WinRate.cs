using Microsoft.ML;

namespace ML.Rlhf;

public sealed partial class RlhfCatalog
{
    /// <summary>Measures how often a model's answers score higher than another's to the same prompts.</summary>
    /// <param name="candidate">
    /// The model to judge. Both models answer with their own <see cref="TextGenerationTransformer.Sampling"/>, each prompt once; their
    /// tokenizers may differ.
    /// </param>
    /// <param name="baseline">The model to compare it with.</param>
    /// <param name="prompts">Held-out prompts. Those that fill the context of a model are left out, with a warning.</param>
    /// <param name="judge">
    /// What scores an answer. The higher score wins and equal scores tie, so only their order counts. A model that was trained against
    /// this very reward will win by more than it is better: judge by another.
    /// </param>
    /// <param name="promptColumnName">The text column of prompts.</param>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    /// <exception cref="ArgumentException">The judge does not fit the models or the columns.</exception>
    /// <exception cref="InvalidOperationException">There are no prompts that fit the models, or the judge gave a number that is not
    /// allowed.</exception>
    public WinRateMetrics EvaluateWinRate(
        TextGenerationTransformer candidate, TextGenerationTransformer baseline, IDataView prompts, Reward judge,
        string promptColumnName = TextGenerationTransformer.DefaultPromptColumn) =>
        WinRateEvaluation.ByScores(_context, candidate, baseline, prompts, judge, promptColumnName);

    /// <summary>Measures how often a model's answers score higher than another's, by a fitted transformer.</summary>
    /// <inheritdoc cref="EvaluateWinRate(TextGenerationTransformer, TextGenerationTransformer, IDataView, Reward, string)"/>
    /// <param name="candidate">The model to judge.</param>
    /// <param name="baseline">The model to compare it with.</param>
    /// <param name="prompts">Held-out prompts.</param>
    /// <param name="judge">A reward model, or any fitted transformer with a column <c>Score</c>.</param>
    /// <param name="promptColumnName">The text column of prompts.</param>
    public WinRateMetrics EvaluateWinRate(
        TextGenerationTransformer candidate, TextGenerationTransformer baseline, IDataView prompts, ITransformer judge,
        string promptColumnName = TextGenerationTransformer.DefaultPromptColumn) =>
        EvaluateWinRate(candidate, baseline, prompts, Rewards.FromTransformer(judge), promptColumnName);

    /// <summary>Measures how often a model's answers score higher than another's, by a rule.</summary>
    /// <inheritdoc cref="EvaluateWinRate(TextGenerationTransformer, TextGenerationTransformer, IDataView, Reward, string)"/>
    /// <param name="candidate">The model to judge.</param>
    /// <param name="baseline">The model to compare it with.</param>
    /// <param name="prompts">Held-out prompts.</param>
    /// <param name="judge">From prompt and answer to a finite score; higher is better.</param>
    /// <param name="promptColumnName">The text column of prompts.</param>
    public WinRateMetrics EvaluateWinRate(
        TextGenerationTransformer candidate, TextGenerationTransformer baseline, IDataView prompts, Func<string, string, float> judge,
        string promptColumnName = TextGenerationTransformer.DefaultPromptColumn) =>
        EvaluateWinRate(candidate, baseline, prompts, Rewards.FromFunction(judge), promptColumnName);

    /// <summary>
    /// Measures how often a model's answers are preferred to another's by a judge who reads both. The judge is asked twice, with the
    /// answers in either order, and the mean counts.
    /// </summary>
    /// <inheritdoc cref="EvaluateWinRate(TextGenerationTransformer, TextGenerationTransformer, IDataView, Reward, string)"/>
    /// <param name="candidate">The model to judge.</param>
    /// <param name="baseline">The model to compare it with.</param>
    /// <param name="prompts">Held-out prompts.</param>
    /// <param name="judge">
    /// From prompt, first and second answer to the probability, from 0 to 1, that the first is better: 1 or 0 for a judge that just names
    /// one, 0.5 for one that cannot tell.
    /// </param>
    /// <param name="promptColumnName">The text column of prompts.</param>
    public WinRateMetrics EvaluateWinRate(
        TextGenerationTransformer candidate, TextGenerationTransformer baseline, IDataView prompts,
        Func<string, string, string, double> judge, string promptColumnName = TextGenerationTransformer.DefaultPromptColumn) =>
        WinRateEvaluation.ByPairs(_context, candidate, baseline, prompts, judge, promptColumnName);
}
