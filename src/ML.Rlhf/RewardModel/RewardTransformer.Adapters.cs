using ML.Rlhf.Torch.Checkpoints;
using ML.Rlhf.Torch.Modules;

namespace ML.Rlhf;

// Low-rank adapters: what training with LoraOptions leaves beside the weights.
public sealed partial class RewardTransformer
{
    /// <inheritdoc cref="TextGenerationTransformer.HasAdapters"/>
    public bool HasAdapters => _model.Module.Trunk.HasAdapters;

    /// <inheritdoc cref="TextGenerationTransformer.MergeAdapters"/>
    public RewardTransformer MergeAdapters() => HasAdapters
        ? LanguageModel.Build(_model.Use(network => network.Clone()), Tokenizer, Architecture, _ => { }, With)
        : Share();

    /// <summary>
    /// Writes the adapters and the scalar head, without the model below them, in PEFT's layout for a sequence classifier. PEFT and
    /// <see cref="ModelCatalog.LoadRewardAdapter"/> read them into the model that training started from.
    /// </summary>
    /// <remarks>
    /// <see cref="Gain"/> is multiplied into the head. Transformers' head has no bias: the model's is written as <c>score.bias</c>, which
    /// is read here and left out there, so that scores differ by a constant, and preferences by nothing.
    /// </remarks>
    /// <inheritdoc cref="TextGenerationTransformer.SaveAdapter"/>
    public void SaveAdapter(string folder, string? baseModel = null)
    {
        ArgumentException.ThrowIfNullOrEmpty(folder);
        if (!HasAdapters)
            throw _environment.Process(AdapterChecks.NoAdapters());
        _model.Use(network => PeftAdapter.Write(folder, network, baseModel));
    }

    private RewardTransformer With(LanguageModel<ScalarGpt> model) =>
        new(_environment, model, PromptColumnName, CompletionColumnName, _chosenColumnName, _answersColumnName, ScoreColumnName);
}
