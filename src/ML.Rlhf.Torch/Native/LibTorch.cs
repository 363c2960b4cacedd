using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using TorchSharp;

namespace ML.Rlhf.Torch.Native;

/// <summary>
/// Finding and loading libtorch, the native library beneath TorchSharp.
/// </summary>
/// <remarks>
/// This pack brings no libtorch: the application chooses a backend, by a reference to <c>TorchSharp-cpu</c>, <c>TorchSharp-cuda-linux</c>,
/// <c>TorchSharp-cuda-windows</c> or to a single package such as <c>libtorch-cpu-linux-x64</c>.
/// </remarks>
public static class LibTorch
{
    /// <summary>What TorchSharp is built for; the backend's version must be exactly this.</summary>
    internal const string LibTorchVersion = "2.10.0";

    /// <summary>Why the preparation for an old Linux failed; a module initializer must not throw, so the next call does.</summary>
    private static Exception? s_preparationFailure;

    private static volatile bool s_isLoaded;

    /// <summary>
    /// Makes sure that TorchSharp can be used, or says how to make it so. Every trainer and every loader of this pack calls it.
    /// </summary>
    /// <remarks>
    /// Call it yourself, first, in a program that uses TorchSharp's <c>torch</c> before anything of this pack: on systems with an older
    /// libstdc++ (Debian 12, Ubuntu 22.04, RHEL 9) TorchSharp loads only after this. Later calls cost nothing.
    /// </remarks>
    /// <exception cref="DllNotFoundException">
    /// libtorch is missing or cannot be loaded. It is the exception that .NET itself throws for a native library, so one handler
    /// serves both. The message names the package to add and the folders that were searched, or what prevented the load.
    /// </exception>
    public static void EnsureLoaded()
    {
        if (s_isLoaded)
            return;

        if (s_preparationFailure is { } failure)
            throw new DllNotFoundException(CannotPrepareMessage(failure), failure);
        if (!IsPresent())
            throw new DllNotFoundException(MissingMessage(NativeFolders.Rid, NativeFolders.All));

        try
        {
            torch.InitializeDeviceType(DeviceType.CPU);
        }
        catch (Exception e) when (e is TypeInitializationException or NotSupportedException or DllNotFoundException)
        {
            throw new DllNotFoundException(CannotInitializeMessage(e.GetBaseException()), e);
        }
        s_isLoaded = true;
    }

    /// <summary>Runs when the first type of this assembly is used, which is before this pack's first use of TorchSharp.</summary>
    [ModuleInitializer]
    [SuppressMessage("Usage", "CA2255", Justification = "TorchSharp never retries a failed load: the preparation has to come first.")]
    internal static void Prepare()
    {
        OpenMp.LimitSpinning();
        try
        {
            if (OldLinux.IsThis())
                OldLinux.LoadTorchSharp();
        }
        catch (Exception e)
        {
            s_preparationFailure = e;
        }
    }

    internal static string MissingMessage(string rid, IEnumerable<string> folders)
    {
        var torchSharp = typeof(torch).Assembly.GetName().Version!.ToString(3);
        var advice = rid is "linux-x64" or "win-x64" or "osx-arm64"
            ? $"""
               Add one to the application:
                 dotnet add package TorchSharp-cpu --version {torchSharp}             (any system)
                 dotnet add package libtorch-cpu-{rid} --version {LibTorchVersion}   (this system only: a smaller download)
               In a file-based app: #:package TorchSharp-cpu@{torchSharp}
               For an NVIDIA GPU: TorchSharp-cuda-linux or TorchSharp-cuda-windows, of the same version.
               """
            : $"There is no CPU package for this system ({rid}): there are linux-x64, win-x64 and osx-arm64.";
        return $"""
            libtorch was not found: the application references no backend package for TorchSharp.
            {advice}
            Looked for {LibraryFileName} in:
              {string.Join("\n  ", folders)}
            """;
    }

    private static string LibraryFileName =>
        OperatingSystem.IsWindows() ? "torch_cpu.dll" : OperatingSystem.IsMacOS() ? "libtorch_cpu.dylib" : "libtorch_cpu.so";

    /// <summary>Whether libtorch lies in one of our folders, or where the runtime looks (such as LD_LIBRARY_PATH).</summary>
    private static bool IsPresent() =>
        NativeFolders.Find(LibraryFileName) is not null || NativeLibrary.TryLoad("torch_cpu", typeof(torch).Assembly, null, out _);

    private static string CannotPrepareMessage(Exception failure) =>
        $"TorchSharp's native library asks for {OldLinux.MissingVersion}, which this system's libstdc++ lacks (GCC 13.2 and newer have " +
        $"it: Debian 13, Ubuntu 24.04, RHEL 10). Loading a copy that does without failed: {failure.Message}";

    /// <summary>TorchSharp's own message goes on for pages; the inner exception has it all.</summary>
    private static string CannotInitializeMessage(Exception failure) =>
        "libtorch is present, but TorchSharp could not start. If the program uses TorchSharp before this pack, call " +
        $"{nameof(LibTorch)}.{nameof(EnsureLoaded)}() before that. The backend package's version must be {LibTorchVersion}. " +
        "TorchSharp says: " + failure.Message.Trim().Split('\n')[0];
}
