using ML.Rlhf.Torch.Checkpoints;
using ML.Rlhf.Torch.Modules;

namespace ML.Rlhf;

// Low-rank adapters: what training with LoraOptions leaves beside the weights.
public sealed partial class TextGenerationTransformer
{
    /// <summary>
    /// Whether the model consists of weights that did not change and adapters beside them, as training with <see cref="LoraOptions"/>
    /// gives. The weights are shared with the model that training started from; either of the two may be disposed.
    /// </summary>
    public bool HasAdapters => _model.Module.HasAdapters;

    /// <summary>
    /// The same model with its adapters added into its weights: as fast as a model without adapters, and with weights of its own. Its
    /// numbers differ by rounding.
    /// </summary>
    /// <returns>A new transformer. Without adapters, it shares the weights.</returns>
    public TextGenerationTransformer MergeAdapters() => HasAdapters
        ? LanguageModel.Build(_model.Use(network => network.Clone()), Tokenizer, Architecture, _ => { }, With)
        : With(_model.Share());

    /// <summary>
    /// Writes the adapters, without the model, in PEFT's layout: <c>adapter_config.json</c> and <c>adapter_model.safetensors</c>. PEFT and
    /// <see cref="ModelCatalog.LoadAdapter"/> read them into the model that training started from.
    /// </summary>
    /// <param name="folder">Made if it does not exist; an adapter that is there is replaced.</param>
    /// <param name="baseModel">Where PEFT finds the model itself, a name on a hub or a folder; null leaves that to who loads it.</param>
    /// <exception cref="InvalidOperationException">The model has no adapters.</exception>
    /// <exception cref="IOException">The files cannot be written.</exception>
    public void SaveAdapter(string folder, string? baseModel = null)
    {
        ArgumentException.ThrowIfNullOrEmpty(folder);
        if (!HasAdapters)
            throw _environment.Process(AdapterChecks.NoAdapters());
        _model.Use(network => PeftAdapter.Write(folder, network, baseModel));
    }

    /// <summary>Another model behind the same columns, sampling and chat template.</summary>
    internal TextGenerationTransformer With(LanguageModel<CausalLanguageModel> model) =>
        new(_environment, model, PromptColumnName, CompletionColumnName, Sampling, ChatTemplate, Conversations);
}
