using System.Reflection;
using System.Xml.Linq;

namespace ML.Rlhf.Samples.Tests;

/// <summary>The checkout that these tests were built from.</summary>
internal static class Repository
{
    public static string Root { get; } = FindRoot();

    /// <summary>The version that packages of this checkout get.</summary>
    public static string Version { get; } = Xml("Directory.Build.props").Descendants("Version").Single().Value;

    /// <summary>The version of TorchSharp that they ask for.</summary>
    public static string TorchSharpVersion { get; } = Xml("Directory.Packages.props").Descendants("PackageVersion")
        .Single(package => package.Attribute("Include")?.Value == "TorchSharp").Attribute("Version")!.Value;

    /// <summary>The assemblies that this process may load, those of .NET too.</summary>
    public static IReadOnlyList<string> ManagedAssemblies { get; } = [.. ((string)AppContext.GetData("TRUSTED_PLATFORM_ASSEMBLIES")!)
        .Split(Path.PathSeparator).Where(IsManaged)];

    private static bool IsManaged(string path)
    {
        try
        {
            AssemblyName.GetAssemblyName(path);
            return true;
        }
        catch (BadImageFormatException)
        {
            return false;
        }
    }

    private static XDocument Xml(string file) => XDocument.Load(Path.Combine(Root, file));

    /// <summary>A file of the real data that lies beside the checkout; the test is skipped where it is not there.</summary>
    public static string RealData(string name)
    {
        string path = Path.GetFullPath(Path.Combine(Root, "..", "shared", "data", name));
        Assert.SkipUnless(File.Exists(path), $"{name} is not part of the repository: put it into ../shared/data beside it to run this " +
            "test.");
        return path;
    }

    /// <summary>Runs <c>dotnet</c> and gives all that it printed.</summary>
    public static async Task<(int ExitCode, string Output)> DotNet(params string[] arguments)
    {
        var result = await TestSupport.DotNet.Run(Root, arguments);
        return (result.ExitCode, result.Everything);
    }

    private static string FindRoot()
    {
        for (var folder = new DirectoryInfo(AppContext.BaseDirectory); folder is not null; folder = folder.Parent)
        {
            if (File.Exists(Path.Combine(folder.FullName, "ML.Rlhf.sln")))
                return folder.FullName;
        }
        throw new DirectoryNotFoundException($"No folder above {AppContext.BaseDirectory} has ML.Rlhf.sln.");
    }
}
