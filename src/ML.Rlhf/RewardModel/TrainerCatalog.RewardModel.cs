namespace ML.Rlhf;

public sealed partial class TrainerCatalog
{
    /// <summary>Trains a reward model on preferences: step 2 of InstructGPT.</summary>
    /// <param name="model">The model to start from, after step 1; it is copied and gets a scalar head.</param>
    /// <param name="promptColumnName">The text column of prompts.</param>
    /// <param name="chosenColumnName">The text column of preferred answers.</param>
    /// <param name="rejectedColumnName">The text column of the other answers.</param>
    /// <param name="epochs">Passes over the preferences.</param>
    public RewardModelTrainer RewardModel(
        TextGenerationTransformer model, string promptColumnName = TextGenerationTransformer.DefaultPromptColumn,
        string chosenColumnName = "Chosen", string rejectedColumnName = "Rejected", int epochs = 1) =>
        RewardModel(model, new RewardModelOptions
        {
            PromptColumnName = promptColumnName,
            ChosenColumnName = chosenColumnName,
            RejectedColumnName = rejectedColumnName,
            Epochs = epochs,
        });

    /// <summary>Trains a reward model on preferences: step 2 of InstructGPT.</summary>
    /// <param name="model">The model to start from, after step 1; it is copied and gets a scalar head.</param>
    /// <param name="options">All that can be chosen.</param>
    /// <exception cref="ArgumentException">Values are out of their ranges; the message lists each one.</exception>
    public RewardModelTrainer RewardModel(TextGenerationTransformer model, RewardModelOptions options)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(options);
        return new RewardModelTrainer(_context, model, options);
    }
}
