using System.Runtime.InteropServices;
using ML.Rlhf.Torch.Native;

namespace ML.Rlhf.Torch.Tests.Native;

public sealed class OpenMpTests
{
    [Fact]
    public void Waiting_threads_spin_shortly_unless_the_user_chose_otherwise()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "GNU OpenMP is libtorch's on Linux.");
        Assert.SkipWhen(Environment.GetEnvironmentVariable("GOMP_SPINCOUNT") is not null
            || Environment.GetEnvironmentVariable("OMP_WAIT_POLICY") is not null,
            "The user chose.");

        LibTorch.EnsureLoaded();

        Assert.Equal("1000", Marshal.PtrToStringUTF8(GetEnvironment("GOMP_SPINCOUNT")));
    }

    [DllImport("libc", EntryPoint = "getenv")]
    private static extern nint GetEnvironment([MarshalAs(UnmanagedType.LPUTF8Str)] string name);
}
