namespace ML.Rlhf;

public sealed partial class TrainerCatalog
{
    /// <summary>Fine-tunes a model on demonstrations: step 1 of InstructGPT.</summary>
    /// <param name="model">The model to start from; it is copied.</param>
    /// <param name="promptColumnName">The text column of prompts.</param>
    /// <param name="completionColumnName">The text column of completions.</param>
    /// <param name="epochs">Passes over the demonstrations.</param>
    public SupervisedFineTuningTrainer SupervisedFineTuning(
        TextGenerationTransformer model, string promptColumnName = TextGenerationTransformer.DefaultPromptColumn,
        string completionColumnName = TextGenerationTransformer.DefaultCompletionColumn, int epochs = 2) =>
        SupervisedFineTuning(model, new SupervisedFineTuningOptions
        {
            PromptColumnName = promptColumnName,
            CompletionColumnName = completionColumnName,
            Epochs = epochs,
        });

    /// <summary>Fine-tunes a model on demonstrations: step 1 of InstructGPT.</summary>
    /// <param name="model">The model to start from; it is copied.</param>
    /// <param name="options">All that can be chosen.</param>
    /// <exception cref="ArgumentException">Values are out of their ranges; the message lists each one.</exception>
    public SupervisedFineTuningTrainer SupervisedFineTuning(TextGenerationTransformer model, SupervisedFineTuningOptions options)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(options);
        return new SupervisedFineTuningTrainer(_context, model, options);
    }
}
