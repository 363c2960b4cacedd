using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using ML.Rlhf.Torch.Native;
using static TorchSharp.torch;

// libtorch's own generator belongs to the whole process, and so does its thread count: tests that compare bits must not run side by side.
[assembly: Xunit.v3.Parallelization(Mode = Xunit.Sdk.ParallelMode.None)]

namespace ML.Rlhf.Torch.Tests;

internal static class TestAssembly
{
    /// <summary>A test may touch libtorch before it touches the pack. More than one thread costs these tiny models time.</summary>
    [ModuleInitializer]
    [SuppressMessage("Usage", "CA2255", Justification = "Nothing of a test assembly runs earlier.")]
    internal static void LoadTorch()
    {
        LibTorch.EnsureLoaded();
        set_num_threads(1);
    }
}
