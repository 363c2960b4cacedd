using ML.Rlhf.TestSupport;

namespace ML.Rlhf.Tests.Bridge;

/// <summary>
/// A console program that mentions nothing of the pack, built and run in a process of its own. Its folder holds the libraries that ours
/// holds, as the folder of an application that references the package does. No package is restored.
/// </summary>
internal static class FreshProcess
{
    /// <summary>Runs top-level statements in <paramref name="folder"/> and returns what they print.</summary>
    public static string Run(string folder, string program)
    {
        File.WriteAllText(Path.Combine(folder, "Program.cs"), program);
        File.WriteAllText(Path.Combine(folder, "fresh.csproj"), $"""
            <Project Sdk="Microsoft.NET.Sdk">
              <PropertyGroup>
                <OutputType>Exe</OutputType>
                <TargetFramework>net10.0</TargetFramework>
                <ImplicitUsings>enable</ImplicitUsings>
                <InvariantGlobalization>true</InvariantGlobalization>
              </PropertyGroup>
              <ItemGroup>
                <Reference Include="{AppContext.BaseDirectory}ML.Rlhf*.dll" />
                <Reference Include="{AppContext.BaseDirectory}Microsoft.ML*.dll" />
              </ItemGroup>
            </Project>
            """);
        Run(folder, "build", "-v", "q", "--nologo", "-o", "out");
        return Run(folder, "exec", Path.Combine("out", "fresh.dll"));
    }

    private static string Run(string folder, params string[] arguments)
    {
        // As in this process: the same bits need the same number of threads.
        var result = DotNet.Run(folder, arguments, ("OMP_NUM_THREADS", "1")).GetAwaiter().GetResult();
        Assert.True(result.ExitCode == 0, $"dotnet {arguments[0]} failed:\n{result.Everything}");
        return result.Output.ReplaceLineEndings("\n").TrimEnd();
    }
}
