using System.Runtime.InteropServices;

namespace ML.Rlhf.Torch.Kernels;

/// <summary>Memory of the kernels' own, aligned to cache lines. It grows where more is asked for, and is kept for the next time.</summary>
internal sealed unsafe class NativeBuffer : IDisposable
{
    private const nuint Alignment = 64;

    private void* _memory;
    private nuint _bytes;

    ~NativeBuffer() => Free();

    /// <summary>Memory of at least so many bytes. What was in it is lost where it grows.</summary>
    /// <exception cref="InsufficientMemoryException">There is not so much.</exception>
    public void* Reserve(long bytes)
    {
        if ((nuint)bytes <= _bytes)
            return _memory;
        Free();
        try
        {
            _memory = NativeMemory.AlignedAlloc((nuint)bytes, Alignment);
        }
        catch (OutOfMemoryException e)
        {
            throw new InsufficientMemoryException(
                $"{bytes >> 20} MB for activations or packed weights could not be had. Lower BatchSize, MicroBatchSize or the context.", e);
        }
        _bytes = (nuint)bytes;
        GC.AddMemoryPressure(bytes);
        return _memory;
    }

    /// <summary>Takes some from the front of memory, aligned; from null it only counts.</summary>
    public static byte* Take(ref byte* memory, long bytes)
    {
        byte* taken = memory;
        memory += (bytes + (long)Alignment - 1) & -(long)Alignment;
        return taken;
    }

    public void Dispose()
    {
        Free();
        GC.SuppressFinalize(this);
    }

    private void Free()
    {
        if (_memory == null)
            return;
        NativeMemory.AlignedFree(_memory);
        GC.RemoveMemoryPressure((long)_bytes);
        _memory = null;
        _bytes = 0;
    }
}
