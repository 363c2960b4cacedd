namespace ML.Rlhf;

public sealed partial class TrainerCatalog
{
    /// <summary>Fine-tunes a model on preferred answers and away from the others: odds-ratio preference optimisation.</summary>
    /// <param name="model">The model to start from; it is copied.</param>
    /// <param name="promptColumnName">The text column of prompts.</param>
    /// <param name="chosenColumnName">The text column of preferred answers.</param>
    /// <param name="rejectedColumnName">The text column of the other answers.</param>
    /// <param name="epochs">Passes over the preferences.</param>
    public OrpoTrainer Orpo(
        TextGenerationTransformer model, string promptColumnName = TextGenerationTransformer.DefaultPromptColumn,
        string chosenColumnName = "Chosen", string rejectedColumnName = "Rejected", int epochs = 1) =>
        Orpo(model, new OrpoOptions
        {
            PromptColumnName = promptColumnName,
            ChosenColumnName = chosenColumnName,
            RejectedColumnName = rejectedColumnName,
            Epochs = epochs,
        });

    /// <summary>Fine-tunes a model on preferred answers and away from the others: odds-ratio preference optimisation.</summary>
    /// <param name="model">The model to start from; it is copied.</param>
    /// <param name="options">All that can be chosen.</param>
    /// <exception cref="ArgumentException">Values are out of their ranges; the message lists each one.</exception>
    public OrpoTrainer Orpo(TextGenerationTransformer model, OrpoOptions options)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(options);
        return new OrpoTrainer(_context, model, options);
    }
}
