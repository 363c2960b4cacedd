using System.Diagnostics;
using System.Runtime.InteropServices;

namespace ML.Rlhf.TestSupport;

/// <summary>How a process ended, and what it printed.</summary>
internal sealed record ProcessResult(int ExitCode, string Output, string Errors)
{
    /// <summary>Both streams, for a message.</summary>
    public string Everything => Output + Errors;
}

/// <summary>Programs in a process of their own.</summary>
internal static class DotNet
{
    /// <summary>
    /// The <c>dotnet</c> that runs this test: three folders above the runtime's own. Another one may be first on the path.
    /// </summary>
    public static string HostPath { get; } = Path.GetFullPath(Path.Combine(
        RuntimeEnvironment.GetRuntimeDirectory(), "..", "..", "..", OperatingSystem.IsWindows() ? "dotnet.exe" : "dotnet"));

    /// <summary>Starts <c>dotnet</c>. Who calls reads what it prints, and disposes of it.</summary>
    /// <param name="folder">Where it runs.</param>
    /// <param name="arguments">A command of the SDK, or a program's file and its arguments.</param>
    /// <param name="environment">Variables to set; null removes one.</param>
    public static Process Start(string folder, string[] arguments, params (string Name, string? Value)[] environment) =>
        Start(folder, arguments, redirectInput: false, environment);

    /// <inheritdoc cref="Start(string, string[], ValueTuple{string, string?}[])"/>
    /// <param name="folder">Where it runs.</param>
    /// <param name="arguments">A command of the SDK, or a program's file and its arguments.</param>
    /// <param name="redirectInput">Whether the caller writes what it reads.</param>
    /// <param name="environment">Variables to set; null removes one.</param>
    public static Process Start(
        string folder, string[] arguments, bool redirectInput, params (string Name, string? Value)[] environment)
    {
        var start = new ProcessStartInfo(HostPath, arguments)
        {
            WorkingDirectory = folder,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            RedirectStandardInput = redirectInput,
        };
        // The settings of the test platform and of the build around it are not for the program under test.
        foreach (string name in start.Environment.Keys.Where(IsOfTestRun).ToArray())
            start.Environment.Remove(name);
        foreach (var (name, value) in environment)
            start.Environment[name] = value;
        return Process.Start(start)!;
    }

    /// <summary>Runs <c>dotnet</c> to its end.</summary>
    /// <inheritdoc cref="Start(string, string[], ValueTuple{string, string?}[])"/>
    public static async Task<ProcessResult> Run(string folder, string[] arguments, params (string Name, string? Value)[] environment)
    {
        using var process = Start(folder, arguments, environment);
        var output = process.StandardOutput.ReadToEndAsync();
        var errors = process.StandardError.ReadToEndAsync();
        await process.WaitForExitAsync();
        return new ProcessResult(process.ExitCode, await output, await errors);
    }

    private static bool IsOfTestRun(string variable) =>
        variable.StartsWith("TESTINGPLATFORM", StringComparison.Ordinal) || variable.StartsWith("MSBUILD", StringComparison.Ordinal);
}
