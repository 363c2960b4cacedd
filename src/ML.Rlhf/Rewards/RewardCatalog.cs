using Microsoft.ML;

namespace ML.Rlhf;

/// <summary>What responses are scored by: <c>ml.Rlhf().Rewards</c>.</summary>
public sealed class RewardCatalog
{
    private readonly MLContext _context;

    internal RewardCatalog(MLContext context) => _context = context;

    /// <summary>A fitted transformer: a reward model, or any other that reads text and gives a number.</summary>
    /// <param name="reward">
    /// A <see cref="RewardTransformer"/>, or any fitted transformer that reads the text columns <c>Prompt</c>, <c>Completion</c> or
    /// <c>Text</c> (the completion). It stays the caller's. A reward model is best given itself: it then sees which responses were cut off.
    /// In a chain of transformers, as any transformer, it reads texts, and takes each for a finished one.
    /// </param>
    /// <param name="scoreColumnName">The column of its output that holds the score: a Single, Double or Boolean.</param>
    public Reward FromTransformer(ITransformer reward, string scoreColumnName = RewardTransformer.DefaultScoreColumn)
    {
        ArgumentNullException.ThrowIfNull(reward);
        ArgumentException.ThrowIfNullOrWhiteSpace(scoreColumnName);
        return new TransformerReward(_context, reward, scoreColumnName);
    }

    /// <summary>A rule.</summary>
    /// <param name="reward">From prompt and completion to a finite score; higher is better.</param>
    public Reward FromFunction(Func<string, string, float> reward)
    {
        ArgumentNullException.ThrowIfNull(reward);
        return new FunctionReward(reward);
    }

    /// <summary>Σ weight·score of several rewards. Bring them to one scale first: a reward model's scores have deviation 1.</summary>
    /// <param name="parts">At least one reward, each with a finite weight; a negative weight punishes.</param>
    /// <exception cref="ArgumentException">There are no parts, or a weight is not finite.</exception>
    public Reward Sum(params (Reward Reward, double Weight)[] parts)
    {
        ArgumentNullException.ThrowIfNull(parts);
        if (parts.Length == 0)
            throw new ArgumentException("A sum of rewards needs at least one part.", nameof(parts));
        foreach (var (reward, weight) in parts)
        {
            ArgumentNullException.ThrowIfNull(reward, nameof(parts));
            if (!double.IsFinite(weight))
                throw new ArgumentException($"A weight is {weight}, but must be a finite number.", nameof(parts));
        }
        return new SumReward([.. parts]);
    }
}
