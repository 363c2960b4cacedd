namespace ML.Rlhf;

internal static class AdapterChecks
{
    /// <summary>Checks options, and whether the adapters that they ask for fit the model that will be trained.</summary>
    /// <exception cref="ArgumentException">Values are out of their ranges, or a target is no linear layer of the model.</exception>
    public static void ValidateFor(this FineTuningOptions options, TextGenerationTransformer model)
    {
        options.Validate();
        if (options.Lora is { } lora)
            model.Use(network => network.AdapterShapes(lora));
    }

    public static InvalidOperationException NoAdapters() => new(
        "The model has no adapters that could be saved. Train it with LoraOptions, or save the whole model.");
}
