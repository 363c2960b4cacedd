namespace ML.Rlhf;

public sealed partial class TrainerCatalog
{
    /// <summary>Trains a GPT from nothing on a corpus of text.</summary>
    /// <param name="textColumnName">The text column, one document per row.</param>
    /// <param name="architecture">The shape of the model; null for <see cref="GptArchitecture.Micro"/>.</param>
    /// <param name="steps">Optimiser steps.</param>
    public GptTrainer Gpt(string textColumnName = "Text", LanguageModelArchitecture? architecture = null, int steps = 2000) =>
        Gpt(new GptOptions { TextColumnName = textColumnName, Architecture = architecture ?? GptArchitecture.Micro, Steps = steps });

    /// <summary>Trains a GPT from nothing on a corpus of text.</summary>
    /// <param name="options">All that can be chosen.</param>
    /// <exception cref="ArgumentException">Values are out of their ranges; the message lists each one.</exception>
    public GptTrainer Gpt(GptOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        return new GptTrainer(_context, options);
    }
}
