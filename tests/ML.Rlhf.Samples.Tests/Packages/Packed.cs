using ML.Rlhf.TestSupport;

namespace ML.Rlhf.Samples.Tests.Packages;

/// <summary>
/// The packages of this checkout in a folder of their own, under a version that no machine has seen, and an empty workplace outside of the
/// repository that can restore them and nothing else that is new.
/// </summary>
public sealed class Packed : IAsyncLifetime
{
    private readonly string _root = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;

    public string Version { get; } = $"{Repository.Version}-t{DateTime.UtcNow:yyyyMMddHHmmss}";

    /// <summary>Where the packages are.</summary>
    public string Feed => Path.Combine(_root, "feed");

    /// <summary>A backend for this system.</summary>
    public static string LibTorch =>
        OperatingSystem.IsWindows() ? "libtorch-cpu-win-x64" : OperatingSystem.IsMacOS() ? "libtorch-cpu-osx-arm64" : "libtorch-cpu-linux-x64";

    public async ValueTask InitializeAsync()
    {
        var (exitCode, output) = await Repository.DotNet("pack", "ML.Rlhf.sln", "-o", Feed, $"-p:Version={Version}");
        Assert.True(exitCode == 0, output);
        Assert.DoesNotContain("warning", output, StringComparison.OrdinalIgnoreCase);
        // What is in this machine's cache is used from there; what is new comes into a cache that goes away with the test.
        string cache = Environment.GetEnvironmentVariable("NUGET_PACKAGES")
            ?? Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".nuget", "packages");
        File.WriteAllText(Path.Combine(_root, "nuget.config"),
            $"""
            <configuration>
              <packageSources><add key="feed" value="{Feed}" /></packageSources>
              <fallbackPackageFolders><add key="cache" value="{cache}" /></fallbackPackageFolders>
            </configuration>
            """);
    }

    /// <summary>A new folder with some files.</summary>
    public string Folder(params (string Name, string Content)[] files)
    {
        string folder = Directory.CreateDirectory(Path.Combine(_root, $"{Guid.NewGuid():N}")).FullName;
        foreach (var (name, content) in files)
            File.WriteAllText(Path.Combine(folder, name), content);
        return folder;
    }

    /// <summary>Runs <c>dotnet</c> there, gives what it printed, and requires that it went well.</summary>
    public async Task<string> DotNet(string folder, params string[] arguments)
    {
        var result = await TestSupport.DotNet.Run(folder, arguments, ("NUGET_PACKAGES", Path.Combine(_root, "packages")));
        Assert.True(result.ExitCode == 0, $"dotnet {string.Join(' ', arguments)}\n{result.Everything}");
        return result.Output;
    }

    public ValueTask DisposeAsync()
    {
        Directory.Delete(_root, recursive: true);
        return ValueTask.CompletedTask;
    }
}
