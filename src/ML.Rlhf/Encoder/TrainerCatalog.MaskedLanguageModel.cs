namespace ML.Rlhf;

public sealed partial class TrainerCatalog
{
    /// <summary>Trains an encoder from nothing on a corpus of text, to make features of texts and to guess hidden words.</summary>
    /// <param name="textColumnName">The text column, one document per row.</param>
    /// <param name="architecture">The shape of the model; null for <see cref="EncoderArchitecture.Micro"/>.</param>
    /// <param name="steps">Optimiser steps.</param>
    public MaskedLanguageModelTrainer MaskedLanguageModel(
        string textColumnName = EncoderTransformer.DefaultTextColumn, EncoderArchitecture? architecture = null, int steps = 2000) =>
        MaskedLanguageModel(new MaskedLanguageModelOptions
        {
            TextColumnName = textColumnName, Architecture = architecture ?? EncoderArchitecture.Micro, Steps = steps,
        });

    /// <summary>Trains an encoder from nothing on a corpus of text, to make features of texts and to guess hidden words.</summary>
    /// <param name="options">All that can be chosen.</param>
    /// <exception cref="ArgumentException">Values are out of their ranges; the message lists each one.</exception>
    public MaskedLanguageModelTrainer MaskedLanguageModel(MaskedLanguageModelOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        return new MaskedLanguageModelTrainer(_context, options);
    }
}
