using Microsoft.ML;
using Microsoft.ML.Runtime;
using ML.Rlhf.Bridge;
using ML.Rlhf.Torch.Checkpoints;
using ML.Rlhf.Torch.Modules;
using TorchSharp;

namespace ML.Rlhf;

public sealed partial class ModelCatalog
{
    /// <summary>
    /// Reads a language model from a folder in Hugging Face's layout: <c>config.json</c>, <c>model.safetensors</c> or its shards, the
    /// tokenizer's files and, where there are any, <c>generation_config.json</c> and a chat template. Nothing in the folder is executed.
    /// </summary>
    /// <remarks>
    /// Model types: gpt2, openai-gpt, llama, mistral, qwen2, qwen3. Weights of F32, F16 and BF16 are read, and become 32-bit floats:
    /// memory grows by four bytes per parameter.
    /// </remarks>
    /// <param name="folder">The folder, such as a snapshot of a hub's repository.</param>
    /// <param name="tokenizer">The tokenizer; null for the folder's own.</param>
    /// <returns>
    /// The model. It samples as <c>generation_config.json</c> says: greedily where that says <c>do_sample: false</c>, with
    /// <see cref="SamplingOptions"/>' defaults where it says nothing.
    /// </returns>
    /// <exception cref="FormatException">A file is damaged, or the model is of a kind or has settings or tensors that are not built here;
    /// the message lists all of them.</exception>
    /// <exception cref="IOException">There is no such folder, or a file is missing.</exception>
    /// <exception cref="ArgumentException">The given tokenizer has more tokens than the model.</exception>
    public TextGenerationTransformer FromPretrained(string folder, TextTokenizer? tokenizer = null)
    {
        ArgumentException.ThrowIfNullOrEmpty(folder);
        var sampling = PretrainedSampling.Read(folder);
        var template = ReadChatTemplate(folder);
        return Import(folder, tokenizer, Pretrained.LanguageModel, module => module.Architecture, model => new TextGenerationTransformer(
            _context, model, TextGenerationTransformer.DefaultPromptColumn, TextGenerationTransformer.DefaultCompletionColumn, sampling,
            template));
    }

    /// <summary>The folder's chat template. A model can do without one that cannot be read, so that is only logged.</summary>
    private ChatTemplate? ReadChatTemplate(string folder)
    {
        try
        {
            return ChatTemplateFiles.Find(folder, name: null);
        }
        catch (Exception e) when (e is FormatException or ArgumentException)
        {
            using var channel = ((IHostEnvironment)_context).Register(nameof(FromPretrained)).Start("Reading the chat template");
            channel.WarningLine($"The model comes without its chat template. {e.Message}");
            return null;
        }
    }

    /// <summary>
    /// Reads a reward model from a folder in Hugging Face's layout: a sequence classifier with one label
    /// (<c>LlamaForSequenceClassification</c> and the like), which is what the field's libraries train and publish.
    /// </summary>
    /// <remarks>
    /// A score is read at the last token of prompt, completion and end of text. Published reward models often expect their chat template
    /// around both; a score of plain text means little then.
    /// </remarks>
    /// <inheritdoc cref="FromPretrained" path="param|exception"/>
    /// <returns>The model, with gain 1 and bias 0.</returns>
    public RewardTransformer RewardModelFromPretrained(string folder, TextTokenizer? tokenizer = null)
    {
        ArgumentException.ThrowIfNullOrEmpty(folder);
        return Import(folder, tokenizer, Pretrained.RewardModel, module => module.Trunk.Architecture, model => new RewardTransformer(
            _context, model, TextGenerationTransformer.DefaultPromptColumn, TextGenerationTransformer.DefaultCompletionColumn,
            "Chosen", answersColumnName: null, RewardTransformer.DefaultScoreColumn));
    }

    /// <summary>Reads a module with its tokenizer, moves it to the context's device, and makes a transformer of them.</summary>
    private TTransformer Import<TModule, TTransformer>(
        string folder, TextTokenizer? tokenizer, Func<string, TModule> read, Func<TModule, LanguageModelArchitecture> architectureOf,
        Func<LanguageModel<TModule>, TTransformer> wrap)
        where TModule : torch.nn.Module
    {
        var host = ((IHostEnvironment)_context).Register(nameof(FromPretrained));
        try
        {
            var ownTokenizer = tokenizer ?? PretrainedTokenizer.Read(folder, endOfText: null);
            var module = read(folder);
            try
            {
                var architecture = architectureOf(module);
                return LanguageModel.Build(
                    module, Fitting(ownTokenizer, architecture, given: tokenizer is not null), architecture,
                    built => built.to(Devices.Of(_context)), wrap);
            }
            catch
            {
                module.Dispose();
                throw;
            }
        }
        catch (Exception e)
        {
            host.Process(e);
            throw;
        }
    }

    /// <summary>Models often have more tokens than their tokenizer, for the sake of round numbers: these stand for no text.</summary>
    private static TextTokenizer Fitting(TextTokenizer tokenizer, LanguageModelArchitecture architecture, bool given)
    {
        if (tokenizer.VocabularySize <= architecture.VocabularySize)
            return tokenizer.PaddedTo(architecture.VocabularySize);
        string problem = $"The tokenizer has {tokenizer.VocabularySize} tokens, but the model only {architecture.VocabularySize}. ";
        throw given
            ? new ArgumentException(problem + "Use the tokenizer that the model was trained with.", nameof(tokenizer))
            : new FormatException(problem + "The folder has the files of two models; download or save it again, as a whole.");
    }
}
