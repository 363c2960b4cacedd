using Microsoft.ML;

namespace ML.Rlhf;

/// <summary>Options of <see cref="SupervisedFineTuningTrainer"/>.</summary>
public sealed record SupervisedFineTuningOptions : SupervisedFineTuningHyperparameters
{
    /// <summary>The text column of prompts, in training and afterwards.</summary>
    public string PromptColumnName { get; init; } = TextGenerationTransformer.DefaultPromptColumn;

    /// <summary>The text column of the completions that people wrote; afterwards, of the model's own.</summary>
    public string CompletionColumnName { get; init; } = TextGenerationTransformer.DefaultCompletionColumn;

    /// <summary>
    /// The text column of conversations, in JSON: <c>[{"role": "user", "content": "Hello"}, …]</c>. All that the assistant says is
    /// learned, in every turn, and nothing else.
    /// </summary>
    /// <value>Null, the default: prompts and completions are learned, or conversations of the two columns below.</value>
    public string? MessagesColumnName { get; init; }

    /// <summary>The column of conversations' roles, a vector of texts, beside <see cref="ContentsColumnName"/>.</summary>
    /// <value>Null, the default: prompts and completions are learned, or conversations in JSON.</value>
    public string? RolesColumnName { get; init; }

    /// <summary>The column of what is said in conversations, a vector of texts with one for each role.</summary>
    /// <value>Null by default.</value>
    public string? ContentsColumnName { get; init; }

    /// <summary>How conversations become text; the trained model keeps it.</summary>
    /// <value>Null, the default: the template that the model has.</value>
    public ChatTemplate? ChatTemplate { get; init; }

    /// <summary>Held-out demonstrations, with the same columns.</summary>
    /// <value>Null, the default, measures nothing.</value>
    public IDataView? ValidationData { get; init; }

    /// <summary>How the trained model completes prompts.</summary>
    /// <value>Null, the default, keeps what the model had before.</value>
    public SamplingOptions? Sampling { get; init; }

    /// <summary>The columns of conversations; null where prompts and completions are learned.</summary>
    internal ConversationColumns? Conversations => MessagesColumnName is null && RolesColumnName is null
        ? null
        : new ConversationColumns(MessagesColumnName, RolesColumnName, ContentsColumnName);

    internal override void Check(OptionProblems problems)
    {
        base.Check(problems);
        problems.RequireName(nameof(PromptColumnName), PromptColumnName);
        problems.RequireName(nameof(CompletionColumnName), CompletionColumnName);
        foreach (var (option, name) in new[]
        {
            (nameof(MessagesColumnName), MessagesColumnName), (nameof(RolesColumnName), RolesColumnName),
            (nameof(ContentsColumnName), ContentsColumnName),
        })
        {
            if (name is not null)
                problems.RequireName(option, name);
        }
        problems.Require(RolesColumnName is null == ContentsColumnName is null, nameof(ContentsColumnName), ContentsColumnName,
            RolesColumnName is null ? "null, for there is no RolesColumnName" : "a column, for there is a RolesColumnName");
        problems.Require(MessagesColumnName is null || RolesColumnName is null, nameof(MessagesColumnName), MessagesColumnName,
            "null, for there is a RolesColumnName");
        problems.Require(ChatTemplate is null || Conversations is not null, nameof(ChatTemplate), "given",
            "null, for no column of conversations is named: set MessagesColumnName, or RolesColumnName and ContentsColumnName");
        if (Sampling is not null)
            problems.Include(Sampling.Validate);
    }
}
