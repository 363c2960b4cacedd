using ML.Rlhf.Torch.Generation;
using ML.Rlhf.Torch.Modules;

namespace ML.Rlhf.Torch.Training;

/// <summary>Scores finished episodes, one number each; higher is better.</summary>
internal delegate double[] EpisodeScorer(IReadOnlyList<Episode> episodes);

/// <summary>Where the episodes of an update come from: prompts in a random order, the policy's responses, and their scores.</summary>
/// <param name="policy">The model that answers, in evaluation mode.</param>
/// <param name="prompts">At least one; each leaves room for a whole response in the policy's context.</param>
/// <param name="scorer">Scores the responses; it may be a user's code.</param>
/// <param name="endToken">The token that ends a response.</param>
/// <param name="options">Lengths, temperature, what an unfinished response is worth.</param>
/// <param name="run">Randomness and cancellation.</param>
/// <param name="goldScorer">Scores the responses for those who watch; null for none.</param>
internal sealed class EpisodeSource(
    CausalLanguageModel policy, TokenSequences prompts, EpisodeScorer scorer, int endToken, PolicyHyperparameters options, TrainingRun run,
    EpisodeScorer? goldScorer = null)
{
    private readonly ForwardReader<int> _promptRows = new(Endless(prompts.Count, new RandomStream(run.Seed, key: 1)));
    private readonly SamplingOptions _sampling = new()
    {
        MaxNewTokens = options.MaxResponseTokens,
        Temperature = (float)options.Temperature,
    };

    /// <summary>What the policy answers.</summary>
    public TokenSequences Prompts => prompts;

    /// <summary>Samples the responses of an update.</summary>
    /// <param name="update">From 0; each update has randomness of its own.</param>
    /// <param name="responsesPerPrompt">Responses to the same prompt, which stand side by side.</param>
    public Episode[] Sample(int update, int responsesPerPrompt = 1)
    {
        var chosen = new int[options.EpisodesPerUpdate][];
        var streams = new RandomStream[chosen.Length];
        for (int i = 0; i < chosen.Length; i++)
        {
            chosen[i] = prompts[_promptRows.At(((long)update * chosen.Length + i) / responsesPerPrompt)].ToArray();
            streams[i] = new RandomStream(run.Seed, key: 3 + (ulong)update * (ulong)chosen.Length + (ulong)i);
        }
        var responses = Sampler.Generate(
            policy, chosen, streams, endToken, _sampling, options.MinResponseTokens, withLogProbabilities: true,
            checkCanceled: run.ThrowIfCanceled);
        return [.. responses.Select((r, i) => new Episode(chosen[i], r.Tokens, r.LogProbabilities, r.Ended))];
    }

    /// <summary>Scores episodes, those that did not end by the convention that was chosen.</summary>
    /// <exception cref="InvalidOperationException">The scorer gave another number of scores, or one that is not finite.</exception>
    public double[] Score(Episode[] episodes)
    {
        double[] scores = EpisodeScores.Require(scorer(episodes), episodes.Length);
        for (int i = 0; i < scores.Length; i++)
        {
            if (!episodes[i].Ended)
                scores[i] = (options.UnfinishedScore ?? scores[i]) - options.UnfinishedPenalty;
        }
        return scores;
    }

    /// <summary>The gold scores of episodes, just as they are; null where there is no gold reward.</summary>
    /// <exception cref="InvalidOperationException">The scorer gave another number of scores, or one that is not finite.</exception>
    public double[]? GoldScore(Episode[] episodes) =>
        goldScorer is null ? null : EpisodeScores.Require(goldScorer(episodes), episodes.Length);

    /// <summary>Prompt indices in a random order, and in a new one each time they run out.</summary>
    private static IEnumerable<int> Endless(int count, RandomStream random)
    {
        while (true)
        {
            foreach (int row in random.Permutation(count))
                yield return row;
        }
    }
}

internal static class EpisodeScores
{
    /// <summary>Checks what a scorer gave, and gives it back.</summary>
    /// <exception cref="InvalidOperationException">There is another number of scores, or one that is not finite.</exception>
    public static double[] Require(double[] scores, int episodes)
    {
        if (scores.Length != episodes)
            throw new InvalidOperationException(
                $"The reward gave {scores.Length} scores for {episodes} episodes, but each needs one. Leave out steps that drop or add " +
                "rows.");
        foreach (double score in scores)
        {
            if (!double.IsFinite(score))
                throw new InvalidOperationException(
                    $"The reward of an episode is {score}, but rewards must be finite numbers. Check the reward model or function for " +
                    "empty and unusual responses.");
        }
        return scores;
    }
}
