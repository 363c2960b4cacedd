using Microsoft.ML;

namespace ML.Rlhf.Bridge;

/// <summary>Where a component writes itself: a folder of the model file with a main stream, named streams and models of its own.</summary>
internal sealed class ModelWriter
{
    private readonly ModelSaveContext _context;

    internal ModelWriter(ModelSaveContext context) => _context = context;

    /// <summary>The main stream: numbers and short strings. Read back through <see cref="ModelReader.Main"/>, to the last byte.</summary>
    public BinaryWriter Main => _context.Writer;

    /// <summary>
    /// Writes a stream of any length; ML.NET stages it in a file below <c>MLContext.TempFilePath</c>. It may be closed by
    /// <paramref name="write"/>.
    /// </summary>
    /// <param name="name">File name within the component's folder, for example <c>weights.safetensors</c>.</param>
    /// <param name="write">Writes the content.</param>
    public void WriteStream(string name, Action<Stream> write) =>
        _context.SaveBinaryStream(name, writer => write(new EntryStream(writer.BaseStream)));

    /// <summary>Saves another transformer in a sub-folder, with its own format and version.</summary>
    public void WriteModel(string name, ITransformer model) => _context.SaveModel(model, name);
}
