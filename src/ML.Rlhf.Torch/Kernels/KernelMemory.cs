namespace ML.Rlhf.Torch.Kernels;

/// <summary>What kernels write and forget: one block of memory per thread that calls them, reused.</summary>
internal static unsafe class KernelMemory
{
    [ThreadStatic]
    private static NativeBuffer? s_buffer;

    /// <summary>Gives the calling thread's memory back.</summary>
    public static void Free()
    {
        s_buffer?.Dispose();
        s_buffer = null;
    }

    /// <summary>Memory that the calling thread has until its next call.</summary>
    public static void* Reserve(long bytes) => (s_buffer ??= new NativeBuffer()).Reserve(bytes);
}
