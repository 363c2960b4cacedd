using System.Runtime.InteropServices;
using System.Security.Cryptography;

namespace ML.Rlhf.Torch.Native;

/// <summary>
/// Lets TorchSharp run where libstdc++ is older than GCC 13.2's: Debian 12, Ubuntu 22.04, RHEL 9 (TorchSharp issue 1567).
/// </summary>
/// <remarks>
/// <c>libLibTorchSharp.so</c> asks for version <c>GLIBCXX_3.4.32</c> because of a single symbol that no relocation uses, so the library
/// runs without it. We load a copy that says so. The dynamic linker knows loaded libraries by their SONAME; TorchSharp's own
/// imports therefore bind to our copy, and TorchSharp needs no configuration. The file that was shipped is never written to: an
/// application's output may link into the package cache.
/// </remarks>
internal static class OldLinux
{
    public const string MissingVersion = "GLIBCXX_3.4.32";

    /// <summary>The only symbol that TorchSharp names of that version. Exactly the libraries that have the version export it.</summary>
    private const string SymbolOfThatVersion = "_ZSt21ios_base_library_initv";

    private const string LibraryName = "libLibTorchSharp.so";

    /// <summary>
    /// Dependencies before dependents. Each is loaded by full path, because a copy elsewhere cannot find them beside itself. A CPU
    /// backend has no CUDA files; what those need in turn lies beside them, and they find it there.
    /// </summary>
    private static readonly string[] s_libTorch =
        ["libgomp*.so*", "libc10.so", "libtorch_cpu.so", "libc10_cuda.so", "libtorch_cuda.so", "libtorch.so"];

    /// <summary>Whether this is a Linux whose libstdc++ lacks the version that TorchSharp asks for.</summary>
    public static bool IsThis()
    {
        if (!OperatingSystem.IsLinux() || !NativeLibrary.TryLoad("libstdc++.so.6", out var libstdcxx))
            return false;
        var isNew = NativeLibrary.TryGetExport(libstdcxx, SymbolOfThatVersion, out _);
        NativeLibrary.Free(libstdcxx);
        return !isNew;
    }

    /// <summary>
    /// Loads libtorch and then the copy of TorchSharp's native library. Does nothing where either is absent: TorchSharp may know
    /// of another place, and <see cref="LibTorch.EnsureLoaded"/> explains it if not.
    /// </summary>
    public static void LoadTorchSharp()
    {
        if (NativeFolders.Find(LibraryName) is not { } shipped || NativeFolders.Find("libtorch_cpu.so") is null)
            return;

        foreach (var path in s_libTorch.Select(NativeFolders.Find).OfType<string>())
            NativeLibrary.Load(path);

        var library = File.ReadAllBytes(shipped);
        ElfVersionNeeds.Weaken(library, MissingVersion);

        if (!TryLoadFromCache(library))
            LoadFromTemporaryFolder(library);
    }

    /// <summary>
    /// Puts a library into <c>folder/HASH/libLibTorchSharp.so</c>, unless these very bytes are there already. Safe against other
    /// processes that do the same at the same time: the file appears under its name whole or not at all.
    /// </summary>
    /// <returns>The file's path.</returns>
    internal static string Place(ReadOnlySpan<byte> library, string folder)
    {
        folder = Path.Combine(folder, Convert.ToHexStringLower(SHA256.HashData(library))[..16]);
        var path = Path.Combine(folder, LibraryName);
        if (File.Exists(path) && library.SequenceEqual(File.ReadAllBytes(path)))
            return path;

        Directory.CreateDirectory(folder);
        var unfinished = Path.Combine(folder, Path.GetRandomFileName());
        try
        {
            File.WriteAllBytes(unfinished, library);
            File.Move(unfinished, path, overwrite: true);
        }
        finally
        {
            File.Delete(unfinished); // only there if the disk is full or the move was refused
        }
        return path;
    }

    /// <summary>
    /// The per-user cache folder, <c>$XDG_CACHE_HOME/ml-rlhf</c> or <c>~/.cache/ml-rlhf</c>; null for a user without a home. A relative
    /// path does not count, as the XDG specification has it.
    /// </summary>
    internal static string? CacheFolder(string? xdgCacheHome, string? userProfile) =>
        Path.IsPathRooted(xdgCacheHome) ? Path.Combine(xdgCacheHome, "ml-rlhf")
        : Path.IsPathRooted(userProfile) ? Path.Combine(userProfile, ".cache", "ml-rlhf")
        : null;

    private static string? UserCacheFolder => CacheFolder(
        Environment.GetEnvironmentVariable("XDG_CACHE_HOME"),
        Environment.GetFolderPath(Environment.SpecialFolder.UserProfile));

    private static bool TryLoadFromCache(byte[] library)
    {
        try
        {
            return UserCacheFolder is { } folder && NativeLibrary.TryLoad(Place(library, folder), out _);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return false; // a read-only home
        }
    }

    /// <summary>
    /// Loads from a fresh folder that only this user can enter, and removes it: a loaded library needs its file no more. (A
    /// folder of a fixed name under /tmp could have been prepared by somebody else.)
    /// </summary>
    private static void LoadFromTemporaryFolder(byte[] library)
    {
        DirectoryInfo? folder = null;
        try
        {
            folder = Directory.CreateTempSubdirectory("ml-rlhf-");
            NativeLibrary.Load(Place(library, folder.FullName));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or DllNotFoundException)
        {
            throw new IOException(
                $"A library can be loaded neither from {UserCacheFolder ?? "a cache folder (there is no home)"} nor from " +
                $"{Path.GetTempPath()}. One of them has to be writable and not mounted noexec " +
                $"(set XDG_CACHE_HOME or TMPDIR). {e.Message}", e);
        }
        finally
        {
            folder?.Delete(recursive: true);
        }
    }
}
