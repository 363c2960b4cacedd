using System.Runtime.InteropServices;
using TorchSharp;

namespace ML.Rlhf.Torch.Native;

/// <summary>Where an application's native libraries may lie, most likely first.</summary>
internal static class NativeFolders
{
    /// <summary>The runtime identifier that native packages use for this process, such as <c>linux-x64</c>.</summary>
    public static string Rid { get; } =
        (OperatingSystem.IsWindows() ? "win" : OperatingSystem.IsMacOS() ? "osx" : "linux")
        + "-" + RuntimeInformation.ProcessArchitecture.ToString().ToLowerInvariant();

    /// <summary>Every folder to look into, once each. Not all of them exist.</summary>
    public static IReadOnlyList<string> All { get; } =
    [
        .. Candidates(
            AppContext.GetData("NATIVE_DLL_SEARCH_DIRECTORIES") as string ?? "",
            AppContext.BaseDirectory,
            Path.GetDirectoryName(typeof(torch).Assembly.Location) is { Length: > 0 } folder ? folder : null)
    ];

    /// <summary>The full path of the first file that has this name (or matches it, with <c>*</c>); null without one.</summary>
    public static string? Find(string name) =>
        All.Where(Directory.Exists).SelectMany(folder => Directory.EnumerateFiles(folder, name)).FirstOrDefault();

    /// <param name="listed">
    /// What the host read from <c>deps.json</c>, separated as in PATH. This alone serves build outputs, <c>dotnet run file.cs</c>,
    /// published and single-file applications.
    /// </param>
    /// <param name="application">The application's folder.</param>
    /// <param name="torchSharp">The folder of <c>TorchSharp.dll</c>; null in a single-file application (no path).</param>
    internal static IEnumerable<string> Candidates(string listed, string application, string? torchSharp)
    {
        List<string> folders = [.. listed.Split(Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries)];

        // A host without the application's deps.json, such as one for plug-ins.
        folders.Add(application);
        folders.Add(Path.Combine(application, "runtimes", Rid, "native"));

        if (torchSharp is not null)
        {
            folders.Add(torchSharp);
            folders.Add(Path.Combine(torchSharp, "runtimes", Rid, "native"));

            // Notebooks and script hosts load TorchSharp.dll straight from its package: PACKAGES/torchsharp/VERSION/lib/net8.0/.
            var package = Path.GetFullPath(Path.Combine(torchSharp, "..", ".."));
            var packages = Path.GetFullPath(Path.Combine(package, "..", ".."));
            folders.Add(Path.Combine(package, "runtimes", Rid, "native"));
            folders.Add(Path.Combine(packages, $"libtorch-cpu-{Rid}", LibTorch.LibTorchVersion, "runtimes", Rid, "native"));
        }
        return folders.Select(Path.TrimEndingDirectorySeparator).Distinct();
    }
}
