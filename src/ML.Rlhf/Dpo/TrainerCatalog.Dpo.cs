namespace ML.Rlhf;

public sealed partial class TrainerCatalog
{
    /// <summary>Aligns a model with preferences, without a reward model: direct preference optimisation.</summary>
    /// <param name="model">The model to start from, after step 1; it is copied, and the copy is held near it.</param>
    /// <param name="promptColumnName">The text column of prompts.</param>
    /// <param name="chosenColumnName">The text column of preferred answers.</param>
    /// <param name="rejectedColumnName">The text column of the other answers.</param>
    /// <param name="epochs">Passes over the preferences.</param>
    public DpoTrainer Dpo(
        TextGenerationTransformer model, string promptColumnName = TextGenerationTransformer.DefaultPromptColumn,
        string chosenColumnName = "Chosen", string rejectedColumnName = "Rejected", int epochs = 1) =>
        Dpo(model, new DpoOptions
        {
            PromptColumnName = promptColumnName,
            ChosenColumnName = chosenColumnName,
            RejectedColumnName = rejectedColumnName,
            Epochs = epochs,
        });

    /// <summary>Aligns a model with preferences, without a reward model: direct preference optimisation.</summary>
    /// <param name="model">The model to start from, after step 1; it is copied, and the copy is held near it.</param>
    /// <param name="options">All that can be chosen.</param>
    /// <exception cref="ArgumentException">Values are out of their ranges; the message lists each one.</exception>
    public DpoTrainer Dpo(TextGenerationTransformer model, DpoOptions options)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(options);
        return new DpoTrainer(_context, model, options);
    }
}
