namespace ML.Rlhf;

public sealed partial class TrainerCatalog
{
    /// <summary>Trains a recurrent language model, an LSTM, from nothing on a corpus of text.</summary>
    /// <param name="textColumnName">The text column, one document per row.</param>
    /// <param name="architecture">The shape of the model; null for <see cref="LstmArchitecture.Micro"/>.</param>
    /// <param name="steps">Optimiser steps.</param>
    public LstmTrainer Lstm(string textColumnName = "Text", LstmArchitecture? architecture = null, int steps = 2000) =>
        Lstm(new LstmOptions { TextColumnName = textColumnName, Architecture = architecture ?? LstmArchitecture.Micro, Steps = steps });

    /// <summary>Trains a recurrent language model, an LSTM, from nothing on a corpus of text.</summary>
    /// <param name="options">All that can be chosen.</param>
    /// <exception cref="ArgumentException">Values are out of their ranges; the message lists each one.</exception>
    public LstmTrainer Lstm(LstmOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        return new LstmTrainer(_context, options);
    }
}
