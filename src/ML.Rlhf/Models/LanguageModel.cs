using System.Security.Cryptography;
using Microsoft.ML.Runtime;
using ML.Rlhf.Bridge;
using ML.Rlhf.Torch.Checkpoints;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Native;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf;

/// <summary>
/// A module and the tokenizer that it was trained with: what every transformer of this pack holds and what goes into model.zip.
/// Transformers that differ only in their settings share the weights; the last to be disposed frees them. Threads may use them side by
/// side.
/// </summary>
/// <typeparam name="TModule">A causal language model, one with a scalar head, or an encoder–decoder.</typeparam>
internal sealed class LanguageModel<TModule> : IDisposable where TModule : nn.Module
{
    private const string TokenizerEntry = "tokenizer.json", ArchitectureEntry = "architecture.json", WeightsEntry = "model.safetensors",
        AdapterEntry = "adapter.json"; // only where the model has adapters

    private readonly SharedModule<TModule> _shared;
    private int _disposed;

    private LanguageModel(SharedModule<TModule> shared, TextTokenizer tokenizer, LanguageModelArchitecture architecture)
    {
        _shared = shared;
        Tokenizer = tokenizer;
        Architecture = architecture;
    }

    public LanguageModel(TModule module, TextTokenizer tokenizer, LanguageModelArchitecture architecture)
        : this(new SharedModule<TModule>(module), tokenizer, architecture)
    {
    }

    public TextTokenizer Tokenizer { get; }

    public LanguageModelArchitecture Architecture { get; }

    /// <summary>For what reads no weights, and for people who see to it themselves that nobody disposes them meanwhile.</summary>
    /// <exception cref="ObjectDisposedException">This model was disposed.</exception>
    public TModule Module => Volatile.Read(ref _disposed) == 0 ? _shared.Module : throw Disposed();

    /// <summary>
    /// Reads the weights. Who disposes the model meanwhile does not wait, and does not pull them from under the reader's feet: they are
    /// freed when the last reader is done.
    /// </summary>
    /// <exception cref="ObjectDisposedException">This model was disposed before.</exception>
    public TResult Use<TResult>(Func<TModule, TResult> read)
    {
        var module = Module;
        if (!_shared.TryAddUser())
            throw Disposed();
        try
        {
            return read(module);
        }
        finally
        {
            _shared.RemoveUser();
        }
    }

    /// <summary>The same for what runs the model on texts.</summary>
    /// <inheritdoc cref="Use{TResult}" path="param|exception"/>
    /// <exception cref="InsufficientMemoryException">Memory ran out; nothing is left of the attempt.</exception>
    public TResult Run<TResult>(Func<TModule, TResult> score) => Use(module => OutOfMemory.Explain(() => score(module)));

    /// <inheritdoc cref="Use{TResult}"/>
    public void Use(Action<TModule> read) => Use(module =>
    {
        read(module);
        return true;
    });

    /// <summary>The same weights for another transformer, which disposes them on its own.</summary>
    /// <exception cref="ObjectDisposedException">This model was disposed.</exception>
    public LanguageModel<TModule> Share()
    {
        _ = Module;
        return _shared.TryAddUser() ? new LanguageModel<TModule>(_shared, Tokenizer, Architecture) : throw Disposed();
    }

    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposed, 1) == 0)
            _shared.RemoveUser();
    }

    private static ObjectDisposedException Disposed() => new(
        objectName: null, "The model was disposed, and cannot be used any more. A PredictionEngine disposes its transformer, too, unless " +
            "PredictionEngineOptions.OwnsTransformer is false.");

    public void Save(ModelWriter writer)
    {
        WriteEntry(writer, ArchitectureEntry, stream => stream.Write(Architecture.ToJson()));
        WriteEntry(writer, TokenizerEntry, Tokenizer.Save);
        Use(module =>
        {
            if (Trunk(module) is { HasAdapters: true } trunk)
                WriteEntry(writer, AdapterEntry, stream => stream.Write(AdapterShape.ToJson(trunk.Adapters.Select(a => a.Shape))));
            WriteEntry(writer, WeightsEntry, stream => Safetensors.Write(stream, module));
        });
    }

    /// <param name="environment">Where the model is loaded; it decides the device.</param>
    /// <param name="reader">Where <see cref="Save"/> wrote.</param>
    /// <param name="create">Makes a module of the saved shape; its weights are overwritten.</param>
    /// <exception cref="FormatException">A part of the model is damaged; the message says which.</exception>
    public static LanguageModel<TModule> Load(
        IHostEnvironment environment, ModelReader reader, Func<LanguageModelArchitecture, TModule> create)
    {
        LibTorch.EnsureLoaded();
        LanguageModelArchitecture? architecture = null;
        TextTokenizer? tokenizer = null;
        ReadEntry(reader, ArchitectureEntry, (stream, _) => architecture = LanguageModelArchitecture.FromJson(ReadAll(stream)));
        ReadEntry(reader, TokenizerEntry, (stream, _) => tokenizer = TextTokenizer.Load(stream));
        if (tokenizer!.VocabularySize != architecture!.VocabularySize)
            throw new FormatException(
                $"The model has {architecture.VocabularySize} tokens, but its tokenizer {tokenizer.VocabularySize}. The file is " +
                "damaged; save the model again.");
        IReadOnlyList<AdapterShape> adapters = [];
        TryReadEntry(reader, AdapterEntry, (stream, _) => adapters = AdapterShape.FromJson(ReadAll(stream)));
        LanguageModel<TModule>? model = null;
        try
        {
            ReadEntry(reader, WeightsEntry, (stream, length) => model = ReadModule(
                environment, stream, length, tokenizer, architecture, adapters, create));
            return model!;
        }
        catch
        {
            model?.Dispose();
            throw;
        }
    }

    private static LanguageModel<TModule> ReadModule(
        IHostEnvironment environment, Stream weights, long length, TextTokenizer tokenizer, LanguageModelArchitecture architecture,
        IReadOnlyList<AdapterShape> adapters, Func<LanguageModelArchitecture, TModule> create)
    {
        // Memory is only asked for when the file has what it is for.
        void RequireBytesFor(long parameters)
        {
            if (length < parameters * sizeof(float))
                throw new FormatException(
                    $"The model has {parameters} parameters, but its weights only {length} bytes. The file is damaged; save the " +
                    "model again.");
        }
        RequireBytesFor(architecture.ParameterCount);
        return LanguageModel.Build(
            create(architecture), tokenizer, architecture,
            module =>
            {
                if (adapters.Count > 0)
                {
                    RequireBytesFor(architecture.ParameterCount + Trunk(module)!.AdapterParameterCount(adapters));
                    Trunk(module)!.AttachAdapters(adapters);
                }
                Safetensors.Read(weights, module);
                module.to(Devices.Of(environment));
                module.eval();
            },
            model => model);
    }

    /// <summary>The part of a module that adapters can be in.</summary>
    private static CausalLanguageModel? Trunk(nn.Module module) => module switch
    {
        ScalarGpt scalar => scalar.Trunk,
        CausalLanguageModel model => model,
        _ => null,
    };

    /// <summary>
    /// Writes an entry, and its checksum into the main stream: nobody else looks whether a zip file's content is what it was, and any
    /// bits are weights.
    /// </summary>
    internal static void WriteEntry(ModelWriter writer, string entry, Action<Stream> write)
    {
        using var checksum = SHA256.Create();
        writer.WriteStream(entry, stream =>
        {
            using var hashing = new CryptoStream(stream, checksum, CryptoStreamMode.Write, leaveOpen: true);
            write(hashing);
        });
        writer.Main.Write(checksum.Hash!);
    }

    /// <summary>Reads what <see cref="WriteEntry"/> wrote.</summary>
    /// <exception cref="FormatException">It is not what was written.</exception>
    internal static void ReadEntry(ModelReader reader, string entry, Action<Stream, long> read)
    {
        using var checksum = SHA256.Create();
        reader.ReadStream(entry, Hashing(checksum, read));
        RequireChecksum(reader, entry, checksum);
    }

    /// <summary>Reads what <see cref="WriteEntry"/> wrote, if it wrote it.</summary>
    /// <exception cref="FormatException">It is not what was written.</exception>
    private static void TryReadEntry(ModelReader reader, string entry, Action<Stream, long> read)
    {
        using var checksum = SHA256.Create();
        if (reader.TryReadStream(entry, Hashing(checksum, read)))
            RequireChecksum(reader, entry, checksum);
    }

    private static Action<Stream> Hashing(SHA256 checksum, Action<Stream, long> read) => stream =>
    {
        using var hashing = new CryptoStream(stream, checksum, CryptoStreamMode.Read, leaveOpen: true);
        read(hashing, stream.Length);
        hashing.CopyTo(Stream.Null); // the checksum is that of the whole entry
    };

    private static void RequireChecksum(ModelReader reader, string entry, SHA256 checksum)
    {
        if (!checksum.Hash.AsSpan().SequenceEqual(reader.Main.ReadBytes(SHA256.HashSizeInBytes)))
            throw new FormatException(
                $"'{entry}' is not what was saved (its checksum differs): the file is damaged or was edited. Copy it or save the model " +
                "again.");
    }

    /// <summary>A small document.</summary>
    /// <exception cref="FormatException">It is not small.</exception>
    internal static byte[] ReadAll(Stream stream)
    {
        const int MaximumLength = 16 << 20;
        var content = new byte[1 << 12];
        for (int length = 0; ;)
        {
            int read = stream.Read(content.AsSpan(length));
            if (read == 0)
                return content[..length];
            length += read;
            if (length > MaximumLength)
                throw new FormatException(
                    $"A description of the model has more than {MaximumLength} bytes, which no program saves. Save the model again.");
            if (length == content.Length)
                Array.Resize(ref content, 2 * length);
        }
    }
}

/// <summary>Weights, and how many use them: the transformers that share them, and the threads that are reading them.</summary>
internal sealed class SharedModule<TModule>(TModule module) where TModule : nn.Module
{
    private int _users = 1;

    public TModule Module => module;

    /// <returns>False when the last user has left: the weights are free, and nobody can come back.</returns>
    public bool TryAddUser()
    {
        int users = Volatile.Read(ref _users);
        while (users > 0)
        {
            int before = Interlocked.CompareExchange(ref _users, users + 1, users);
            if (before == users)
                return true;
            users = before;
        }
        return false;
    }

    public void RemoveUser()
    {
        if (Interlocked.Decrement(ref _users) == 0)
            module.Dispose();
    }
}

internal static class LanguageModel
{
    /// <summary>
    /// Fills a new module with its weights and makes a transformer of it. When that fails, the module is not left behind.
    /// </summary>
    /// <param name="module">The new module.</param>
    /// <param name="tokenizer">Its tokenizer.</param>
    /// <param name="architecture">Its shape.</param>
    /// <param name="fill">Trains the module, or reads its weights.</param>
    /// <param name="wrap">Takes over the model.</param>
    public static TResult Build<TModule, TResult>(
        TModule module, TextTokenizer tokenizer, LanguageModelArchitecture architecture, Action<TModule> fill,
        Func<LanguageModel<TModule>, TResult> wrap)
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
