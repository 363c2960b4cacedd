namespace ML.Rlhf;

/// <summary>
/// Options of <see cref="LstmTrainer"/>: those of <see cref="GptOptions"/> with another shape, and a learning rate of 5e-3 by default. On
/// tinyshakespeare, a small LSTM learned best at 1e-2 of 1e-3, 3e-3 and 1e-2; larger ones want less.
/// </summary>
public sealed record LstmOptions : PretrainingOptions
{
    /// <summary>Options with their defaults.</summary>
    public LstmOptions() => LearningRate = 5e-3;

    /// <summary>The shape of the model.</summary>
    /// <value><see cref="LstmArchitecture.Micro"/> by default: minutes on two cores. Its vocabulary size is that of the tokenizer, once
    /// there is one.</value>
    public LstmArchitecture Architecture { get; init; } = LstmArchitecture.Micro;

    internal override LanguageModelArchitecture Shape => Architecture;
}
