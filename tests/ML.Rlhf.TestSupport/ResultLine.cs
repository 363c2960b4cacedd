namespace ML.Rlhf.TestSupport;

/// <summary>What a test measured, in a plain line: on the console, and in the file that <c>ML_RLHF_RESULTS</c> names, for CI to print.</summary>
public static class ResultLine
{
    private static readonly Lock s_lock = new();

    public static void Print(string line)
    {
        Console.WriteLine(line);
        if (Environment.GetEnvironmentVariable("ML_RLHF_RESULTS") is not { Length: > 0 } file)
            return;
        lock (s_lock)
            File.AppendAllText(file, line + "\n");
    }
}
