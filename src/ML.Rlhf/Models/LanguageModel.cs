using Microsoft.ML.Runtime;
using ML.Rlhf.Bridge;
using ML.Rlhf.Torch.Checkpoints;
using ML.Rlhf.Torch.Native;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf;

/// <summary>
/// A module and the tokenizer that it was trained with: what every transformer of this pack holds and what goes into model.zip. Transformers that
/// differ only in their settings share the weights; the last to be disposed frees them.
/// </summary>
/// <typeparam name="TModule"><see cref="Torch.Modules.Gpt"/> or <see cref="Torch.Modules.ScalarGpt"/>.</typeparam>
internal sealed class LanguageModel<TModule> : IDisposable where TModule : nn.Module
{
    private const string TokenizerEntry = "tokenizer.json", ArchitectureEntry = "architecture.json", WeightsEntry = "model.safetensors";

    private readonly SharedModule<TModule> _shared;
    private int _disposed;

    private LanguageModel(SharedModule<TModule> shared, TextTokenizer tokenizer, GptArchitecture architecture)
    {
        _shared = shared;
        Tokenizer = tokenizer;
        Architecture = architecture;
    }

    public LanguageModel(TModule module, TextTokenizer tokenizer, GptArchitecture architecture)
        : this(new SharedModule<TModule>(module), tokenizer, architecture)
    {
    }

    public TextTokenizer Tokenizer { get; }

    public GptArchitecture Architecture { get; }

    /// <exception cref="ObjectDisposedException">This model was disposed.</exception>
    public TModule Module => _disposed == 0 ? _shared.Module : throw new ObjectDisposedException(
        objectName: null, "The model was disposed. A PredictionEngine disposes its transformer unless PredictionEngineOptions.OwnsTransformer is false.");

    /// <summary>The same weights for another transformer, which disposes them on its own.</summary>
    public LanguageModel<TModule> Share()
    {
        _ = Module;
        _shared.AddOwner();
        return new LanguageModel<TModule>(_shared, Tokenizer, Architecture);
    }

    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposed, 1) == 0)
            _shared.RemoveOwner();
    }

    public void Save(ModelWriter writer)
    {
        writer.WriteStream(ArchitectureEntry, stream => stream.Write(Architecture.ToJson()));
        writer.WriteStream(TokenizerEntry, Tokenizer.Save);
        writer.WriteStream(WeightsEntry, stream => Safetensors.Write(stream, Module));
    }

    /// <param name="environment">Where the model is loaded; it decides the device.</param>
    /// <param name="reader">Where <see cref="Save"/> wrote.</param>
    /// <param name="create">Makes a module of the saved shape; its weights are overwritten.</param>
    /// <exception cref="FormatException">A part of the model is damaged; the message says which.</exception>
    public static LanguageModel<TModule> Load(IHostEnvironment environment, ModelReader reader, Func<GptArchitecture, TModule> create)
    {
        LibTorch.EnsureLoaded();
        GptArchitecture? architecture = null;
        TextTokenizer? tokenizer = null;
        reader.ReadStream(ArchitectureEntry, stream => architecture = GptArchitecture.FromJson(ReadAll(stream)));
        reader.ReadStream(TokenizerEntry, stream => tokenizer = TextTokenizer.Load(stream));
        if (tokenizer!.VocabularySize != architecture!.VocabularySize)
            throw new FormatException(
                $"The model has {architecture.VocabularySize} tokens, but its tokenizer {tokenizer.VocabularySize}. The file is damaged; save the model again.");
        return LanguageModel.Build(
            create(architecture), tokenizer, architecture,
            module =>
            {
                reader.ReadStream(WeightsEntry, stream => Safetensors.Read(stream, module));
                module.to(Devices.Of(environment));
                module.eval();
            },
            model => model);
    }

    private static byte[] ReadAll(Stream stream)
    {
        using var buffer = new MemoryStream();
        stream.CopyTo(buffer);
        return buffer.ToArray();
    }
}

/// <summary>Weights that several transformers use, and how many of them.</summary>
internal sealed class SharedModule<TModule>(TModule module) where TModule : nn.Module
{
    private int _owners = 1;

    public TModule Module => module;

    public void AddOwner() => Interlocked.Increment(ref _owners);

    public void RemoveOwner()
    {
        if (Interlocked.Decrement(ref _owners) == 0)
            module.Dispose();
    }
}

internal static class LanguageModel
{
    /// <summary>Fills a new module with its weights and makes a transformer of it. When that fails, the module is not left behind.</summary>
    /// <param name="module">The new module.</param>
    /// <param name="tokenizer">Its tokenizer.</param>
    /// <param name="architecture">Its shape.</param>
    /// <param name="fill">Trains the module, or reads its weights.</param>
    /// <param name="wrap">Takes over the model.</param>
    public static TResult Build<TModule, TResult>(
        TModule module, TextTokenizer tokenizer, GptArchitecture architecture, Action<TModule> fill, Func<LanguageModel<TModule>, TResult> wrap)
        where TModule : nn.Module
    {
        try
        {
            fill(module);
            return wrap(new LanguageModel<TModule>(module, tokenizer, architecture));
        }
        catch
        {
            module.Dispose();
            throw;
        }
    }
}
