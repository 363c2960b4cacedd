using System.Diagnostics;

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
        Dotnet(folder, "build", "-v", "q", "--nologo", "-o", "out");
        return Dotnet(folder, "exec", Path.Combine("out", "fresh.dll"));
    }

    private static string Dotnet(string folder, params string[] arguments)
    {
        using var process = Process.Start(new ProcessStartInfo("dotnet", arguments)
        {
            WorkingDirectory = folder,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            Environment = { ["OMP_NUM_THREADS"] = "1" }, // as in this process: the same bits need the same number of threads
        })!;
        var errors = process.StandardError.ReadToEndAsync();
        var output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        Assert.True(process.ExitCode == 0, $"dotnet {arguments[0]} failed:\n{output}{errors.Result}");
        return output.ReplaceLineEndings("\n").TrimEnd();
    }
}
