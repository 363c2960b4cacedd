using ML.Rlhf.Tests;
using ML.Rlhf.Torch.Native;
using static TorchSharp.torch;

[assembly: AssemblyFixture(typeof(OneTorchThread))]
// The pack holds the scalars that libtorch reads (TensorArithmetic.cs); tests compute with TorchSharp's own operators, which do not.
[assembly: Xunit.v3.Parallelization(Mode = Xunit.Sdk.ParallelMode.None)]

namespace ML.Rlhf.Tests;

/// <summary>More than one thread costs these tiny models time.</summary>
public sealed class OneTorchThread
{
    /// <summary>
    /// Not a module initializer: programs that tests start in a process of their own load this assembly too, without libtorch.
    /// </summary>
    public OneTorchThread()
    {
        LibTorch.EnsureLoaded();
        set_num_threads(1);
    }
}
