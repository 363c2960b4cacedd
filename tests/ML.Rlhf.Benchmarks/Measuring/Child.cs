using System.Diagnostics;

namespace ML.Rlhf.Benchmarks.Measuring;

/// <summary>Programs in a process of their own, each with as many OpenMP threads as the machine has cores.</summary>
internal static class Child
{
    private static readonly string[] s_openMp = ["OMP_", "GOMP_", "KMP_"], s_blas = ["OPENBLAS_", "MKL_"];

    public static int Threads => Environment.ProcessorCount;

    /// <summary>What the caller's environment tells the libraries of matrix products, such as not to use all of the processor.</summary>
    public static string[] BlasSettings =>
        [.. new ProcessStartInfo().Environment.Where(v => IsOneOf(s_blas, v.Key)).Select(v => $"{v.Key}={v.Value}").Order()];

    /// <summary>Runs this very program.</summary>
    public static string RunSelf(params string[] arguments) => Run(Environment.ProcessPath!, arguments);

    /// <summary>Runs a program to its end, and gives what it printed.</summary>
    /// <param name="program">Its file.</param>
    /// <param name="arguments">Its arguments.</param>
    /// <param name="clearBlas">Whether <see cref="BlasSettings"/> are not for it.</param>
    /// <exception cref="InvalidOperationException">It failed.</exception>
    public static string Run(string program, string[] arguments, bool clearBlas = false)
    {
        var start = new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true, RedirectStandardError = true };
        // How the caller's own threads wait, and how many they are, is not for what is measured.
        foreach (string name in start.Environment.Keys.Where(n => IsOneOf(s_openMp, n) || clearBlas && IsOneOf(s_blas, n)).ToArray())
            start.Environment.Remove(name);
        start.Environment["OMP_NUM_THREADS"] = $"{Threads}";
        using var process = Process.Start(start)!;
        var errors = process.StandardError.ReadToEndAsync();
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        return process.ExitCode == 0 ? output
            : throw new InvalidOperationException($"{program} {string.Join(' ', arguments)} failed: {output}{errors.Result}");
    }

    private static bool IsOneOf(string[] prefixes, string variable) =>
        Array.Exists(prefixes, prefix => variable.StartsWith(prefix, StringComparison.Ordinal));
}
