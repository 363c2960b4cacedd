using ML.Rlhf.Tests;
using ML.Rlhf.Torch.Native;
using static TorchSharp.torch;

[assembly: AssemblyFixture(typeof(OneTorchThread))]
// TorchSharp's scalars may be finalized while libtorch still reads them, when another thread sets off a collection at that moment.
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
