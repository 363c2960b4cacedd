using Microsoft.ML;

namespace ML.Rlhf;

/// <summary>The way in: <c>ml.Rlhf()</c>.</summary>
public static class RlhfExtensions
{
    /// <summary>Language models and their training by human feedback, as components of ML.NET.</summary>
    /// <param name="ml">The context: its log, seed, device and cancellation hold for everything that comes out of the catalog.</param>
    public static RlhfCatalog Rlhf(this MLContext ml)
    {
        ArgumentNullException.ThrowIfNull(ml);
        return new RlhfCatalog(ml);
    }
}

/// <summary>Trainers, tokenizers and evaluation for language models. Get one from <see cref="RlhfExtensions.Rlhf"/>.</summary>
public sealed partial class RlhfCatalog
{
    private readonly MLContext _context;

    internal RlhfCatalog(MLContext context)
    {
        _context = context;
        Trainers = new TrainerCatalog(context);
        Tokenizers = new TokenizerCatalog(context);
        ChatTemplates = new ChatTemplateCatalog();
        Transforms = new TransformCatalog(context);
        Models = new ModelCatalog(context);
        Rewards = new RewardCatalog(context);
    }

    /// <summary>The three steps of InstructGPT, the pretraining before them, and other ways to align.</summary>
    public TrainerCatalog Trainers { get; }

    /// <summary>Tokenizers, ready made or trained.</summary>
    public TokenizerCatalog Tokenizers { get; }

    /// <summary>How conversations become text.</summary>
    public ChatTemplateCatalog ChatTemplates { get; }

    /// <summary>Data transformations.</summary>
    public TransformCatalog Transforms { get; }

    /// <summary>Models from files.</summary>
    public ModelCatalog Models { get; }

    /// <summary>What scores the answers of a model that is being aligned.</summary>
    public RewardCatalog Rewards { get; }

    /// <summary>Measures how well a model predicts whole documents.</summary>
    /// <param name="model">The model.</param>
    /// <param name="data">Held-out documents.</param>
    /// <param name="textColumnName">The text column, one document per row.</param>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    /// <exception cref="InvalidOperationException">There are no documents.</exception>
    public LanguageModelMetrics EvaluateLanguageModel(TextGenerationTransformer model, IDataView data, string textColumnName = "Text") =>
        Evaluation.LanguageModel(_context, model, data, textColumnName);

    /// <summary>Measures how well a model predicts the completions that people wrote, given their prompts.</summary>
    /// <param name="model">The model.</param>
    /// <param name="data">Held-out demonstrations.</param>
    /// <param name="promptColumnName">The text column of prompts.</param>
    /// <param name="completionColumnName">The text column of completions.</param>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    /// <exception cref="InvalidOperationException">There are no demonstrations that fit the model.</exception>
    public LanguageModelMetrics EvaluateDemonstrations(
        TextGenerationTransformer model, IDataView data, string promptColumnName = TextGenerationTransformer.DefaultPromptColumn,
        string completionColumnName = TextGenerationTransformer.DefaultCompletionColumn) =>
        Evaluation.Demonstrations(_context, model, data, promptColumnName, completionColumnName);

    /// <summary>Measures how far a policy has moved from the model that it began as, on its own answers to held-out prompts.</summary>
    /// <param name="policy">The policy. It answers with its own <see cref="TextGenerationTransformer.Sampling"/>, of whose options
    /// only length, seed and a temperature above 0 may be set.</param>
    /// <param name="reference">The model to compare with; it needs the same tokenizer.</param>
    /// <param name="prompts">Held-out prompts.</param>
    /// <param name="promptColumnName">The text column of prompts.</param>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    /// <exception cref="ArgumentException">The tokenizers differ, or the policy samples from another distribution than its own:
    /// at temperature 0, with top-k, a repetition penalty or the like.</exception>
    /// <exception cref="InvalidOperationException">There are no prompts that fit the model.</exception>
    public PolicyMetrics EvaluatePolicy(
        TextGenerationTransformer policy, TextGenerationTransformer reference, IDataView prompts,
        string promptColumnName = TextGenerationTransformer.DefaultPromptColumn) =>
        Evaluation.Policy(_context, policy, reference, prompts, promptColumnName);

    /// <summary>
    /// Measures how often a reward model agrees with people and whether it is as sure as it is right, beside a rule that only compares the
    /// lengths of the answers.
    /// </summary>
    /// <param name="model">The reward model.</param>
    /// <param name="data">Held-out preferences: pairs, or ranked answers.</param>
    /// <param name="promptColumnName">The text column of prompts.</param>
    /// <param name="chosenColumnName">The text column of preferred answers.</param>
    /// <param name="rejectedColumnName">The text column of the other answers.</param>
    /// <param name="answersColumnName">The column with a vector of answers; null where preferences are pairs.</param>
    /// <param name="ranksColumnName">The column with the places of a vector of answers, lower is better.</param>
    /// <param name="ratingsColumnName">The column with their ratings instead, higher is better.</param>
    /// <param name="weightColumnName">The column with a Single that says how sure the labeler was; null for none.</param>
    /// <exception cref="ArgumentOutOfRangeException">There is no such column.</exception>
    /// <exception cref="ArgumentException">Answers come without ranks and ratings, with both, or the other way round.</exception>
    /// <exception cref="InvalidOperationException">There are no preferences.</exception>
    public RewardModelMetrics EvaluateRewardModel(
        RewardTransformer model, IDataView data, string promptColumnName = TextGenerationTransformer.DefaultPromptColumn,
        string chosenColumnName = "Chosen", string rejectedColumnName = "Rejected", string? answersColumnName = null,
        string? ranksColumnName = null, string? ratingsColumnName = null, string? weightColumnName = null) =>
        RewardModelEvaluation.Measure(_context, model, data, new RankingColumns(promptColumnName, chosenColumnName, rejectedColumnName)
        {
            Answers = answersColumnName,
            Ranks = ranksColumnName,
            Ratings = ratingsColumnName,
            Weight = weightColumnName,
        });
}
