using Microsoft.ML;

namespace ML.Rlhf;

public sealed partial class TrainerCatalog
{
    /// <summary>Aligns a model with a fitted reward by REINFORCE leave-one-out.</summary>
    /// <param name="model">The model to start from, after step 1; it is copied, and the copy is held near it.</param>
    /// <param name="reward">
    /// A reward model (<see cref="RewardTransformer"/>), or any fitted transformer that reads the text columns <c>Prompt</c>,
    /// <c>Completion</c> or <c>Text</c> (the completion) and gives a column <c>Score</c>.
    /// </param>
    /// <param name="promptColumnName">The text column of prompts.</param>
    /// <param name="klCoefficient">β: what a nat of divergence from the model costs, in units of score.</param>
    /// <param name="episodes">Answers to learn from.</param>
    public RlooTrainer Rloo(
        TextGenerationTransformer model, ITransformer reward, string promptColumnName = TextGenerationTransformer.DefaultPromptColumn,
        double klCoefficient = 0.05, int episodes = 10_000) =>
        Rloo(model, reward, new RlooOptions { PromptColumnName = promptColumnName, KlCoefficient = klCoefficient, Episodes = episodes });

    /// <summary>Aligns a model with a fitted reward by REINFORCE leave-one-out.</summary>
    /// <param name="model">The model to start from, after step 1; it is copied, and the copy is held near it.</param>
    /// <param name="reward">A reward model, or any fitted transformer with a column <c>Score</c>.</param>
    /// <param name="options">All that can be chosen.</param>
    /// <exception cref="ArgumentException">Values are out of their ranges; the message lists each one.</exception>
    public RlooTrainer Rloo(TextGenerationTransformer model, ITransformer reward, RlooOptions options) =>
        Rloo(model, new RewardCatalog(_context).FromTransformer(reward), options);

    /// <summary>Aligns a model with a rule by REINFORCE leave-one-out.</summary>
    /// <param name="model">The model to start from; it is copied, and the copy is held near it.</param>
    /// <param name="reward">From prompt and completion to a finite score; higher is better.</param>
    /// <param name="promptColumnName">The text column of prompts.</param>
    /// <param name="klCoefficient">β: what a nat of divergence from the model costs, in units of score.</param>
    /// <param name="episodes">Answers to learn from.</param>
    public RlooTrainer Rloo(
        TextGenerationTransformer model, Func<string, string, float> reward,
        string promptColumnName = TextGenerationTransformer.DefaultPromptColumn,
        double klCoefficient = 0.05, int episodes = 10_000) =>
        Rloo(model, reward, new RlooOptions { PromptColumnName = promptColumnName, KlCoefficient = klCoefficient, Episodes = episodes });

    /// <summary>Aligns a model with a rule by REINFORCE leave-one-out.</summary>
    /// <param name="model">The model to start from; it is copied, and the copy is held near it.</param>
    /// <param name="reward">From prompt and completion to a finite score; higher is better.</param>
    /// <param name="options">All that can be chosen.</param>
    /// <exception cref="ArgumentException">Values are out of their ranges; the message lists each one.</exception>
    public RlooTrainer Rloo(TextGenerationTransformer model, Func<string, string, float> reward, RlooOptions options) =>
        Rloo(model, new RewardCatalog(_context).FromFunction(reward), options);

    /// <summary>Aligns a model with any reward of <see cref="RlhfCatalog.Rewards"/>, a weighted sum of several among them.</summary>
    /// <param name="model">The model to start from; it is copied, and the copy is held near it.</param>
    /// <param name="reward">What scores the answers.</param>
    /// <param name="options">All that can be chosen.</param>
    /// <exception cref="ArgumentException">Values are out of their ranges; the message lists each one.</exception>
    public RlooTrainer Rloo(TextGenerationTransformer model, Reward reward, RlooOptions options)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(reward);
        ArgumentNullException.ThrowIfNull(options);
        return new RlooTrainer(_context, model, reward, options);
    }
}
