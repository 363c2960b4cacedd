namespace ML.Rlhf;

public sealed partial class TrainerCatalog
{
    /// <summary>Aligns a model with answers that were judged one by one: Kahneman–Tversky optimisation.</summary>
    /// <param name="model">The model to start from, after step 1; it is copied, and the copy is held near it.</param>
    /// <param name="promptColumnName">The text column of prompts.</param>
    /// <param name="completionColumnName">The text column of answers.</param>
    /// <param name="labelColumnName">The Boolean column that says whether an answer is desirable.</param>
    /// <param name="epochs">Passes over the answers.</param>
    public KtoTrainer Kto(
        TextGenerationTransformer model, string promptColumnName = TextGenerationTransformer.DefaultPromptColumn,
        string completionColumnName = TextGenerationTransformer.DefaultCompletionColumn,
        string labelColumnName = KtoOptions.DefaultLabelColumn, int epochs = 1) =>
        Kto(model, new KtoOptions
        {
            PromptColumnName = promptColumnName,
            CompletionColumnName = completionColumnName,
            LabelColumnName = labelColumnName,
            Epochs = epochs,
        });

    /// <summary>Aligns a model with answers that were judged one by one: Kahneman–Tversky optimisation.</summary>
    /// <param name="model">The model to start from, after step 1; it is copied, and the copy is held near it.</param>
    /// <param name="options">All that can be chosen.</param>
    /// <exception cref="ArgumentException">Values are out of their ranges; the message lists each one.</exception>
    public KtoTrainer Kto(TextGenerationTransformer model, KtoOptions options)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(options);
        return new KtoTrainer(_context, model, options);
    }
}
