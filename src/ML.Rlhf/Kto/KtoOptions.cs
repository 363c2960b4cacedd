using Microsoft.ML;

namespace ML.Rlhf;

/// <summary>Options of <see cref="KtoTrainer"/>.</summary>
public sealed record KtoOptions : KtoHyperparameters
{
    internal const string DefaultLabelColumn = "Label";

    /// <summary>The text column of prompts, in training and afterwards.</summary>
    public string PromptColumnName { get; init; } = TextGenerationTransformer.DefaultPromptColumn;

    /// <summary>The text column of the answers that people judged; afterwards, of the model's own.</summary>
    public string CompletionColumnName { get; init; } = TextGenerationTransformer.DefaultCompletionColumn;

    /// <summary>The Boolean column that says whether an answer is desirable.</summary>
    public string LabelColumnName { get; init; } = DefaultLabelColumn;

    /// <summary>Held-out answers, with the same columns.</summary>
    /// <value>Null, the default, measures nothing.</value>
    public IDataView? ValidationData { get; init; }

    /// <summary>How the trained model completes prompts.</summary>
    /// <value>Null, the default, keeps what the model had before.</value>
    public SamplingOptions? Sampling { get; init; }

    internal override void Check(OptionProblems problems)
    {
        base.Check(problems);
        problems.RequireName(nameof(PromptColumnName), PromptColumnName);
        problems.RequireName(nameof(CompletionColumnName), CompletionColumnName);
        problems.RequireName(nameof(LabelColumnName), LabelColumnName);
        if (Sampling is not null)
            problems.Include(Sampling.Validate);
    }
}
