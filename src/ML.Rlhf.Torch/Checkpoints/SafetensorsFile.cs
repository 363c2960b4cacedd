using System.IO.MemoryMappedFiles;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Checkpoints;

/// <summary>
/// One safetensors file, open for reading. Tensors are read through a small window that is mapped, copied and unmapped again, so the
/// process never holds a second copy of them.
/// </summary>
internal sealed class SafetensorsFile : IDisposable
{
    private readonly string _what;
    private readonly FileStream _stream;
    private readonly long _dataStart;
    private readonly (long Length, DateTime Written) _asOpened;
    private MemoryMappedFile? _map;

    /// <exception cref="FormatException">It is no safetensors file, or not a whole one.</exception>
    /// <exception cref="IOException">The file cannot be opened.</exception>
    public SafetensorsFile(string path)
    {
        Name = Path.GetFileName(path);
        _what = $"'{path}'";
        _stream = PretrainedFile.Open(path);
        try
        {
            _asOpened = Now();
            (Tensors, _dataStart) = SafetensorsHeader.Read(_stream, _what, _asOpened.Length);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Its name, without the folder.</summary>
    public string Name { get; }

    /// <summary>What the header declares, in the order of the bytes.</summary>
    public IReadOnlyList<TensorInfo> Tensors { get; }

    /// <summary>Copies a tensor of this file.</summary>
    /// <param name="tensor">One of <see cref="Tensors"/>, of a type that we read.</param>
    /// <param name="target">A tensor of that shape.</param>
    /// <exception cref="FormatException">The file was changed since it was opened.</exception>
    public void Read(TensorInfo tensor, Tensor target)
    {
        long position = _dataStart + tensor.Start;
        TensorBytes.Read(target, SafetensorsHeader.ScalarTypeOf(tensor.Type)!.Value, bytes =>
        {
            // A mapped page behind the end of a file that was cut meanwhile would end the process.
            if (Now() != _asOpened)
                throw new FormatException($"{_what} was changed while it was read. Wait until it is written, and load it again.");
            _map ??= MemoryMappedFile.CreateFromFile(
                _stream, mapName: null, capacity: 0, MemoryMappedFileAccess.Read, HandleInheritability.None, leaveOpen: true);
            using var window = _map.CreateViewStream(position, bytes.Length, MemoryMappedFileAccess.Read);
            window.ReadExactly(bytes);
            position += bytes.Length;
        });
    }

    public void Dispose()
    {
        _map?.Dispose();
        _stream.Dispose();
    }

    private (long Length, DateTime Written) Now() =>
        (RandomAccess.GetLength(_stream.SafeFileHandle), File.GetLastWriteTimeUtc(_stream.SafeFileHandle));
}
