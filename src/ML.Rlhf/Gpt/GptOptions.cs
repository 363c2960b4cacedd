namespace ML.Rlhf;

/// <summary>Options of <see cref="GptTrainer"/>.</summary>
public sealed record GptOptions : PretrainingOptions
{
    /// <summary>The shape of the model: a GPT's, or a Llama's.</summary>
    /// <value><see cref="GptArchitecture.Micro"/> by default: minutes on two cores. Its vocabulary size is that of the tokenizer, once
    /// there is one.</value>
    public LanguageModelArchitecture Architecture { get; init; } = GptArchitecture.Micro;

    internal override LanguageModelArchitecture Shape => Architecture;

    internal override void Check(OptionProblems problems)
    {
        base.Check(problems);
        problems.Require(Architecture is not LstmArchitecture, nameof(Architecture), Architecture.GetType().Name,
            $"a transformer's (for an LSTM, use {nameof(TrainerCatalog)}.{nameof(TrainerCatalog.Lstm)})");
    }
}
