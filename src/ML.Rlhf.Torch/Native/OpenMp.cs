using System.Runtime.InteropServices;

namespace ML.Rlhf.Torch.Native;

/// <summary>
/// How long libtorch's threads wait for each other awake. By default, GNU OpenMP lets a thread that waits spin for milliseconds. Where
/// another program needs the same cores, the threads that spin take them from the threads that they wait for, and a small model trains
/// three to five times slower. A short spin is as fast on an idle machine.
/// </summary>
internal static class OpenMp
{
    private const string SpinCount = "GOMP_SPINCOUNT", WaitPolicy = "OMP_WAIT_POLICY";

    /// <summary>About as long as the gap between two operations of a small model.</summary>
    private const string Short = "1000";

    /// <summary>
    /// Limits the spinning, unless the user has chosen for themselves. GNU OpenMP reads its settings once, when it is loaded, from the
    /// process's native environment, which .NET's own <c>Environment.SetEnvironmentVariable</c> does not change.
    /// </summary>
    public static void LimitSpinning()
    {
        if (!OperatingSystem.IsLinux() || Environment.GetEnvironmentVariable(SpinCount) is not null
            || Environment.GetEnvironmentVariable(WaitPolicy) is not null)
            return;
        try
        {
            _ = SetEnvironment(SpinCount, Short, overwrite: 0);
        }
        catch (Exception e) when (e is DllNotFoundException or EntryPointNotFoundException)
        {
            // A C library under another name: everything works, only with the long spin.
        }
    }

    [DllImport("libc", EntryPoint = "setenv", BestFitMapping = false)]
    private static extern int SetEnvironment(
        [MarshalAs(UnmanagedType.LPUTF8Str)] string name, [MarshalAs(UnmanagedType.LPUTF8Str)] string value, int overwrite);
}
