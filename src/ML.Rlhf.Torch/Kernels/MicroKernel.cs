using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;
using ML.Rlhf.Torch.Native;

namespace ML.Rlhf.Torch.Kernels;

/// <summary>
/// oneDNN's product of two small matrices of bfloat16, which libtorch carries and exports: C (float32) = A·B, or C += A·B. It runs at what
/// the processor can do, two to six times as fast as libtorch's own products, whose libraries (MKL, and oneDNN with a layout change per
/// call) do less well on many processors.
/// </summary>
internal static unsafe class MicroKernel
{
    // (M, N, K, lda, ldb, ldc, add to C, A, B, C, B is in pairs of rows)
    private static readonly delegate* unmanaged<long, long, long, long, long, long, byte, ushort*, ushort*, float*, byte, void> s_multiply;
    private static readonly delegate* unmanaged<byte, void> s_release;

    static MicroKernel()
    {
        if (!OperatingSystem.IsLinux() || !Avx512BW.IsSupported || OneDnnIsLimited())
            return;
        LibTorch.EnsureLoaded();
        if (!NativeLibrary.TryLoad("libtorch_cpu.so", out nint library)
            || !NativeLibrary.TryGetExport(library, "_ZN2at3cpu24is_avx512_bf16_supportedEv", out nint hasInstructions)
            || !NativeLibrary.TryGetExport(library, "_ZN2at6native7cpublas6brgemmEllllllbPKN3c108BFloat16ES5_Pfb", out nint multiply)
            || !NativeLibrary.TryGetExport(library, "_ZN2at6native7cpublas14brgemm_releaseEb", out nint release)
            || ((delegate* unmanaged<byte>)hasInstructions)() == 0)
            return;
        s_multiply = (delegate* unmanaged<long, long, long, long, long, long, byte, ushort*, ushort*, float*, byte, void>)multiply;
        s_release = (delegate* unmanaged<byte, void>)release;
    }

    /// <summary>Somebody told oneDNN to use fewer of the processor's instructions; without them it has no such product.</summary>
    private static bool OneDnnIsLimited() => Environment.GetEnvironmentVariable("ONEDNN_MAX_CPU_ISA") is not null
        || Environment.GetEnvironmentVariable("DNNL_MAX_CPU_ISA") is not null;

    /// <summary>Whether this processor multiplies bfloat16 and this libtorch exports the product.</summary>
    public static bool IsSupported => s_multiply != null;

    /// <summary>
    /// C (m × n) = A·B, or C += A·B. A kernel is compiled for each new (m, n, k, strides) and kept: use few.
    /// </summary>
    /// <param name="m">Rows of A and C.</param>
    /// <param name="n">Columns of B and C.</param>
    /// <param name="k">Columns of A, rows of B; even.</param>
    /// <param name="a">A by rows.</param>
    /// <param name="rowA">From one row of A to the next.</param>
    /// <param name="b">B with two rows woven into one: b[2·(i/2)·rowB + 2·j + i%2] is its element (i, j).</param>
    /// <param name="rowB">From one row of B to the next.</param>
    /// <param name="c">C by rows.</param>
    /// <param name="rowC">From one row of C to the next.</param>
    /// <param name="add">Whether to add to C.</param>
    public static void Multiply(int m, int n, int k, ushort* a, int rowA, ushort* b, int rowB, float* c, int rowC, bool add = false) =>
        s_multiply(m, n, k, rowA, rowB, rowC, add ? (byte)1 : (byte)0, a, b, c, 1);

    /// <summary>Gives back what the processor keeps for products on this thread.</summary>
    public static void Release()
    {
        if (s_release != null)
            s_release(1);
    }
}
