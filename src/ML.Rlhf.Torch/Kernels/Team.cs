using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using TorchSharp;

namespace ML.Rlhf.Torch.Kernels;

/// <summary>
/// Shares the pieces of some work among libtorch's own threads. .NET's threads would compete with them for the cores: libtorch's wait
/// awake for their next work. Where libtorch has another OpenMP than GNU's, .NET's do the work nevertheless. Which thread does a piece is
/// left to chance, so that no bit of the result may depend on it.
/// </summary>
internal static unsafe class Team
{
    /// <summary>More than any machine's threads: what per-thread memory is counted with.</summary>
    public const int MostThreads = 256;

    private static readonly delegate* unmanaged<delegate* unmanaged<void*, void>, void*, uint, uint, void> s_parallel = FindOpenMp();

    /// <summary>How many threads work at once.</summary>
    public static int Threads => Math.Min(torch.get_num_threads(), MostThreads);

    /// <summary>Calls <paramref name="body"/> once for each piece, and returns when all are done.</summary>
    /// <param name="pieces">How many.</param>
    /// <param name="body">Does a piece: (context, piece, thread), with a thread number below <see cref="Threads"/>. It must not throw.</param>
    /// <param name="context">What all pieces share.</param>
    public static void Run(int pieces, delegate*<void*, int, int, void> body, void* context)
    {
        var work = new Work { Body = body, Context = context, Pieces = pieces };
        int threads = Math.Min(Threads, pieces);
        if (threads <= 1)
            DoPieces(&work);
        else if (s_parallel != null)
            s_parallel(&Join, &work, (uint)threads, 0);
        else
            JoinOnThreadPool(&work, threads);
    }

    private static void JoinOnThreadPool(Work* work, int threads) => Parallel.For(0, threads, _ => DoPieces(work));

    private struct Work
    {
        public delegate*<void*, int, int, void> Body;
        public void* Context;
        public int Pieces, Next, Threads;
    }

    [UnmanagedCallersOnly]
    private static void Join(void* work) => DoPieces((Work*)work);

    private static void DoPieces(Work* work)
    {
        int thread = Interlocked.Increment(ref work->Threads) - 1;
        for (int piece; (piece = Interlocked.Increment(ref work->Next) - 1) < work->Pieces;)
            work->Body(work->Context, piece, thread);
        MicroKernel.Release();
    }

    /// <summary>GNU OpenMP's entry, among what libtorch depends on; null where it is another OpenMP.</summary>
    private static delegate* unmanaged<delegate* unmanaged<void*, void>, void*, uint, uint, void> FindOpenMp() =>
        OperatingSystem.IsLinux() && NativeLibrary.TryLoad("libtorch_cpu.so", out nint library)
            && NativeLibrary.TryGetExport(library, "GOMP_parallel", out nint parallel)
            ? (delegate* unmanaged<delegate* unmanaged<void*, void>, void*, uint, uint, void>)parallel
            : null;
}
