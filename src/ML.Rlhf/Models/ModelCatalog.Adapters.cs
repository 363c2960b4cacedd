using Microsoft.ML.Runtime;
using ML.Rlhf.Torch.Checkpoints;
using ML.Rlhf.Torch.Modules;
using TorchSharp;

namespace ML.Rlhf;

public sealed partial class ModelCatalog
{
    /// <summary>
    /// Puts adapters of a folder in PEFT's layout beside a model's weights: what <see cref="TextGenerationTransformer.SaveAdapter"/> or
    /// PEFT wrote. Plain LoRA is read, also rank-stabilised and with ranks and alphas of some layers.
    /// </summary>
    /// <param name="model">The model that the adapters were trained on.</param>
    /// <param name="folder">A folder with <c>adapter_config.json</c> and <c>adapter_model.safetensors</c>.</param>
    /// <returns>A new transformer, which shares the model's weights. Each of the two is disposed on its own.</returns>
    /// <exception cref="ArgumentException">The model has adapters already.</exception>
    /// <exception cref="FormatException">A file is damaged, or the adapters are of another kind or another model; all problems are listed.
    /// </exception>
    /// <exception cref="IOException">There is no such folder, or a file is missing.</exception>
    public TextGenerationTransformer LoadAdapter(TextGenerationTransformer model, string folder) => LanguageModel.Build(
        ShareWeights(model, folder), model.Tokenizer, model.Architecture,
        network => Read(() => PeftAdapter.Read(folder, network)), model.With);

    /// <summary>
    /// Makes a reward model of a model and adapters of a folder in PEFT's layout: what <see cref="RewardTransformer.SaveAdapter"/> or PEFT
    /// wrote, for a sequence classifier with one label.
    /// </summary>
    /// <inheritdoc cref="LoadAdapter"/>
    /// <param name="model">The model that the adapters were trained on.</param>
    /// <param name="folder">A folder with <c>adapter_config.json</c> and <c>adapter_model.safetensors</c>.</param>
    /// <returns>A new transformer, which shares the model's weights and columns. Each of the two is disposed on its own.</returns>
    public RewardTransformer LoadRewardAdapter(TextGenerationTransformer model, string folder) => LanguageModel.Build(
        new ScalarGpt(ShareWeights(model, folder), generator: null), model.Tokenizer, model.Architecture,
        network =>
        {
            Read(() => PeftAdapter.Read(folder, network));
            network.eval();
        },
        loaded => new RewardTransformer(
            _context, loaded, model.PromptColumnName, model.CompletionColumnName, "Chosen", null, RewardTransformer.DefaultScoreColumn));

    private CausalLanguageModel ShareWeights(TextGenerationTransformer model, string folder)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentException.ThrowIfNullOrEmpty(folder);
        if (model.HasAdapters)
            throw ((IHostEnvironment)_context).Process(new ArgumentException(
                "The model has adapters already, and those of a folder stand beside plain weights. Load them into the model that they " +
                "were trained on, or into what MergeAdapters gives.", nameof(model)));
        return model.Use(network => network.ShareWeights());
    }

    private void Read(Action read)
    {
        try
        {
            read();
        }
        catch (Exception e) when (e is FormatException or IOException)
        {
            throw ((IHostEnvironment)_context).Process(e);
        }
    }
}
