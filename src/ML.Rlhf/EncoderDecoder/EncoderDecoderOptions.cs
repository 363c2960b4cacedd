using Microsoft.ML;

namespace ML.Rlhf;

/// <summary>Options of <see cref="EncoderDecoderTrainer"/>.</summary>
public sealed record EncoderDecoderOptions : EncoderDecoderHyperparameters
{
    /// <summary>The shape of the model.</summary>
    /// <value><see cref="EncoderDecoderArchitecture.Tiny"/> by default: minutes on two cores. Its vocabulary size is that of the
    /// tokenizer, once there is one.</value>
    public EncoderDecoderArchitecture Architecture { get; init; } = EncoderDecoderArchitecture.Tiny;

    /// <summary>The tokenizer, for prompts and completions.</summary>
    /// <value>Null, the default, trains a byte-level BPE of the architecture's vocabulary size on both.</value>
    public TextTokenizer? Tokenizer { get; init; }

    /// <summary>The text column of prompts, in training and afterwards.</summary>
    public string PromptColumnName { get; init; } = TextGenerationTransformer.DefaultPromptColumn;

    /// <summary>The text column of the completions to learn; afterwards, of the model's own.</summary>
    public string CompletionColumnName { get; init; } = TextGenerationTransformer.DefaultCompletionColumn;

    /// <summary>Held-out prompts and completions, with the same columns.</summary>
    /// <value>Null, the default, measures nothing.</value>
    public IDataView? ValidationData { get; init; }

    /// <summary>How the trained model completes prompts.</summary>
    /// <value>The likeliest token each time by default (temperature 0): what is learned from pairs mostly has one right answer.</value>
    public SamplingOptions Sampling { get; init; } = new() { Temperature = 0 };

    internal override void Check(OptionProblems problems)
    {
        base.Check(problems);
        problems.RequireName(nameof(PromptColumnName), PromptColumnName);
        problems.RequireName(nameof(CompletionColumnName), CompletionColumnName);
        ArgumentNullException.ThrowIfNull(Architecture);
        problems.Include(Architecture.Validate);
        problems.Include(Sampling.Validate);
    }
}
