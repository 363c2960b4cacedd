using Microsoft.ML;
using Microsoft.ML.Runtime;
using ML.Rlhf.Torch.Training;

namespace ML.Rlhf;

public sealed partial class RlhfCatalog
{
    /// <summary>Lets several models answer the same prompts, to read their answers side by side.</summary>
    /// <param name="prompts">Held-out prompts. Those that fill the context of a model are left out, with a warning.</param>
    /// <param name="models">
    /// The models, each with the name that the table calls it. Each answers with its own <see cref="TextGenerationTransformer.Sampling"/>.
    /// </param>
    /// <param name="judge">What scores the answers, such as <c>Rewards.FromTransformer(rewardModel)</c>; null for no scores.</param>
    /// <param name="promptColumnName">The text column of prompts.</param>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    /// <exception cref="ArgumentException">There are no models, or the judge does not fit the models or the columns.</exception>
    /// <exception cref="InvalidOperationException">There are no prompts that fit the models, or the judge gave a number that is not
    /// finite.</exception>
    public SampleTable CompareSamples(
        IDataView prompts, IReadOnlyList<(string Name, TextGenerationTransformer Model)> models, Reward? judge = null,
        string promptColumnName = TextGenerationTransformer.DefaultPromptColumn)
    {
        ArgumentNullException.ThrowIfNull(prompts);
        ArgumentNullException.ThrowIfNull(models);
        var host = Evaluation.Register(_context);
        if (models.Count == 0)
            throw host.Process(new ArgumentException("There are no models to compare. Name at least one.", nameof(models)));
        TextColumns.RequireText(host, prompts.Schema, "prompt", promptColumnName);
        using var channel = host.Start("Comparing samples");
        string[] texts = Tokenization.PromptTexts(
            prompts, promptColumnName, [.. models.Select(m => m.Model)], channel.WarningLine, Cancellation.Check(host));
        return new SampleTable(texts, [.. models.Select(m =>
        {
            var scorer = judge?.CreateScorer(m.Model);
            var answers = m.Model.SampleEpisodes(texts, 1);
            return new ModelSamples(
                m.Name, [.. answers.Select(answer => m.Model.Tokenizer.Decode(answer.Response))],
                scorer is null ? null : EpisodeScores.Require(scorer(answers), answers.Length));
        })]);
    }
}
