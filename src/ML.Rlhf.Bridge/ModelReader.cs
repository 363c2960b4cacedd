using System.Runtime.CompilerServices;
using Microsoft.ML;
using Microsoft.ML.Runtime;

namespace ML.Rlhf.Bridge;

/// <summary>Where a component reads itself from: the dual of <see cref="ModelWriter"/>.</summary>
internal sealed class ModelReader
{
    private readonly IHostEnvironment _env;
    private readonly ModelLoadContext _context;
    private readonly string _component;

    internal ModelReader(IHostEnvironment env, ModelLoadContext context, string component, int version)
    {
        _env = env;
        _context = context;
        _component = component;
        Version = version;
    }

    /// <summary>The version that wrote the file, between 1 and the component's own <see cref="IModelComponent{TSelf}.Version"/>.</summary>
    public int Version { get; }

    /// <summary>The main stream.</summary>
    public BinaryReader Main => _context.Reader;

    /// <summary>Reads a named stream, which is seekable and starts at 0.</summary>
    /// <exception cref="FormatException">The file has no such stream.</exception>
    public void ReadStream(string name, Action<Stream> read)
    {
        if (!TryReadStream(name, read))
            throw Missing("stream", name);
    }

    /// <summary>Reads a named stream that only some files have.</summary>
    /// <returns>Whether the file has it.</returns>
    public bool TryReadStream(string name, Action<Stream> read) =>
        _context.TryLoadBinaryStream(name, reader => read(new EntryStream(reader.BaseStream)));

    /// <summary>Loads a transformer that <see cref="ModelWriter.WriteModel"/> saved.</summary>
    /// <exception cref="FormatException">The file has no such model.</exception>
    public ITransformer ReadModel(string name)
    {
        if (!RuntimeHelpers.TryEnsureSufficientExecutionStack())
            throw _env.Process(new FormatException(
                $"Model component '{_component}' holds models in models in models, far too deep. No program saved this file."));
        if (!_context.LoadModelOrNull<ITransformer, SignatureLoadModel>(_env, out var model, name))
            throw Missing("model", name);
        return model;
    }

    private FormatException Missing(string kind, string name) => _env.Process(new FormatException(
        $"Model component '{_component}' has no {kind} '{name}' in this file. Save the model again, or get a whole copy."));
}
