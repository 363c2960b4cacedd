namespace ML.Rlhf;

/// <summary>Options of <see cref="LstmTrainer"/>: those of <see cref="GptOptions"/>, and another shape.</summary>
public sealed record LstmOptions : PretrainingOptions
{
    /// <summary>The shape of the model.</summary>
    /// <value><see cref="LstmArchitecture.Micro"/> by default: minutes on two cores. Its vocabulary size is that of the tokenizer, once
    /// there is one.</value>
    public LstmArchitecture Architecture { get; init; } = LstmArchitecture.Micro;

    internal override LanguageModelArchitecture Shape => Architecture;
}
