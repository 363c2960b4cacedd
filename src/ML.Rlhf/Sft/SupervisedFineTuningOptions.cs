using Microsoft.ML;

namespace ML.Rlhf;

/// <summary>Options of <see cref="SupervisedFineTuningTrainer"/>.</summary>
public sealed record SupervisedFineTuningOptions : SupervisedFineTuningHyperparameters
{
    /// <summary>The text column of prompts, in training and afterwards.</summary>
    public string PromptColumnName { get; init; } = TextGenerationTransformer.DefaultPromptColumn;

    /// <summary>The text column of the completions that people wrote; afterwards, of the model's own.</summary>
    public string CompletionColumnName { get; init; } = TextGenerationTransformer.DefaultCompletionColumn;

    /// <summary>Held-out demonstrations, with the same columns.</summary>
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
        if (Sampling is not null)
            problems.Include(Sampling.Validate);
    }
}
