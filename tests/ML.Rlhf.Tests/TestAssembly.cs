using ML.Rlhf.Tests;
using ML.Rlhf.Torch.Native;
using static TorchSharp.torch;

[assembly: AssemblyFixture(typeof(OneTorchThread))]

namespace ML.Rlhf.Tests;

/// <summary>Test classes run side by side: more threads below each of them would only cost these tiny models time.</summary>
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
