using System.IO.MemoryMappedFiles;
using System.Runtime.InteropServices;

namespace ML.Rlhf.Torch.Training;

/// <summary>
/// A file that tokens are written to and then read from through a memory map, so that a corpus may be larger than memory: the system keeps
/// what is read often, and drops it where it needs the room. It belongs to one run, and is deleted after it.
/// </summary>
internal sealed class TokenFile : IDisposable
{
    private static ReadOnlySpan<byte> Header => "ML.Rlhf tokens 1"u8; // 16 bytes: what follows is aligned

    private readonly string _path;
    private readonly FileStream _file;
    private readonly bool _isNew;
    private MemoryMappedFile? _map;
    private MemoryMappedViewAccessor? _view;

    /// <param name="path">A new file, or one that a run left behind.</param>
    /// <exception cref="IOException">The file cannot be written, belongs to another run, or is something else.</exception>
    public TokenFile(string path)
    {
        _path = Path.GetFullPath(path);
        _isNew = !File.Exists(_path);
        try
        {
            Directory.CreateDirectory(Path.GetDirectoryName(_path)!);
            _file = new FileStream(_path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None, bufferSize: 0);
        }
        catch (Exception e) when (DiskErrors.Is(e))
        {
            throw new IOException(
                $"TokenFile '{_path}' cannot be opened: {e.Reason()}. Name a file in a folder that can be written, and another one for each " +
                "run at the same time.", e);
        }
        if (!IsMine())
        {
            _file.Dispose();
            throw new IOException($"TokenFile '{_path}' is no file of tokens, and is not overwritten. Name one that does not exist.");
        }
        try
        {
            _file.SetLength(0);
            _file.Write(Header);
        }
        catch (Exception e) when (DiskErrors.Is(e))
        {
            Dispose();
            throw Full(e);
        }
    }

    /// <summary>Adds numbers at the end.</summary>
    /// <returns>The place of the first, in bytes.</returns>
    /// <exception cref="IOException">They do not fit.</exception>
    public long Append<T>(ReadOnlySpan<T> numbers) where T : unmanaged
    {
        Unmap();
        long place = _file.Length;
        try
        {
            _file.Seek(place, SeekOrigin.Begin);
            _file.Write(MemoryMarshal.AsBytes(numbers));
        }
        catch (Exception e) when (DiskErrors.Is(e))
        {
            throw Full(e);
        }
        return place;
    }

    /// <summary>Reads numbers from a place on. Several threads may, once all is written.</summary>
    public void Read<T>(long place, Span<T> destination) where T : unmanaged =>
        View().SafeMemoryMappedViewHandle.ReadSpan((ulong)place, destination);

    /// <summary>Deletes the file.</summary>
    public void Dispose()
    {
        Unmap();
        bool isOwn = _isNew || _file.Length > 0; // else it is as it was found: an empty file, or a device
        _file.Dispose();
        try
        {
            if (isOwn)
                File.Delete(_path);
        }
        catch (Exception e) when (DiskErrors.Is(e))
        {
            // The run is over, and the next one of this name writes over what is left.
        }
    }

    private bool IsMine()
    {
        Span<byte> start = stackalloc byte[Header.Length];
        return _file.Length == 0 || (_file.ReadAtLeast(start, start.Length, throwOnEndOfStream: false) == start.Length
            && start.SequenceEqual(Header));
    }

    private MemoryMappedViewAccessor View()
    {
        if (_view is { } view)
            return view;
        lock (_file)
        {
            _map ??= MemoryMappedFile.CreateFromFile(
                _file, mapName: null, capacity: 0, MemoryMappedFileAccess.Read, HandleInheritability.None, leaveOpen: true);
            return _view ??= _map.CreateViewAccessor(0, 0, MemoryMappedFileAccess.Read);
        }
    }

    private void Unmap()
    {
        _view?.Dispose();
        _map?.Dispose();
        (_view, _map) = (null, null);
    }

    private IOException Full(Exception e) => new(
        $"The tokens of the corpus could not be written to TokenFile '{_path}': {e.Reason()}. Free some space, or name a file on a disk with " +
        "more: 2 bytes a token, or 4 with more than 65,536 ids, and 4 bytes a document.", e);
}
