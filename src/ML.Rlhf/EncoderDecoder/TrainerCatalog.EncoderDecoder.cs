namespace ML.Rlhf;

public sealed partial class TrainerCatalog
{
    /// <summary>Trains the original transformer, an encoder–decoder, from nothing to make completions of prompts.</summary>
    /// <param name="promptColumnName">The text column of prompts.</param>
    /// <param name="completionColumnName">The text column of completions.</param>
    /// <param name="architecture">The shape of the model; null for <see cref="EncoderDecoderArchitecture.Tiny"/>.</param>
    /// <param name="epochs">Passes over the data.</param>
    public EncoderDecoderTrainer EncoderDecoder(
        string promptColumnName = TextGenerationTransformer.DefaultPromptColumn,
        string completionColumnName = TextGenerationTransformer.DefaultCompletionColumn,
        EncoderDecoderArchitecture? architecture = null, int epochs = 10) =>
        EncoderDecoder(new EncoderDecoderOptions
        {
            PromptColumnName = promptColumnName,
            CompletionColumnName = completionColumnName,
            Architecture = architecture ?? EncoderDecoderArchitecture.Tiny,
            Epochs = epochs,
        });

    /// <summary>Trains the original transformer, an encoder–decoder, from nothing to make completions of prompts.</summary>
    /// <param name="options">All that can be chosen.</param>
    /// <exception cref="ArgumentException">Values are out of their ranges; the message lists each one.</exception>
    public EncoderDecoderTrainer EncoderDecoder(EncoderDecoderOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        return new EncoderDecoderTrainer(_context, options);
    }
}
