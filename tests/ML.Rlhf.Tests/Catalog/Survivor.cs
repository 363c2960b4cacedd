using System.Diagnostics;
using ML.Rlhf.TestSupport;

namespace ML.Rlhf.Tests.Catalog;

/// <summary>A run of ML.Rlhf.Survivor in a process of its own: what it printed, and when it got how far.</summary>
/// <param name="Output">All of it, errors too.</param>
/// <param name="Ready">When training began, since the start of the process; null where it did not come so far.</param>
/// <param name="Trained">When training ended; null where it did not come so far.</param>
/// <param name="Weights">Hash of the model's file; null where there is none.</param>
/// <param name="Loaded">The same of the model that ML.NET read back.</param>
internal sealed record Survivor(string Output, TimeSpan? Ready, TimeSpan? Trained, string? Weights, string? Loaded)
{
    private static readonly TimeSpan s_patience = TimeSpan.FromMinutes(2);

    /// <summary>Whether there is nothing left to do.</summary>
    public bool IsDone => Weights is not null;

    /// <summary>Trains, until it has finished or is killed.</summary>
    /// <param name="stage">Which trainer.</param>
    /// <param name="folder">Where its checkpoints are; null for none.</param>
    /// <param name="from">The checkpoint that it must go on from; null for the last one of its folder.</param>
    /// <param name="until">
    /// Ends with the moment to kill the process at; it is given a task that ends when training begins. Null lets the process finish.
    /// </param>
    /// <param name="threads">What OMP_NUM_THREADS says.</param>
    public static async Task<Survivor> Run(
        string stage, string? folder = null, string? from = null, Func<Task, Task>? until = null, int threads = 1)
    {
        string program = Path.Combine(AppContext.BaseDirectory, "ML.Rlhf.Survivor.dll");
        string[] arguments = [program, stage, .. new[] { folder, from }.OfType<string>()];
        var clock = Stopwatch.StartNew();
        using var process = DotNet.Start(
            AppContext.BaseDirectory, arguments, ("OMP_NUM_THREADS", threads.ToString(System.Globalization.CultureInfo.InvariantCulture)));
        var errors = process.StandardError.ReadToEndAsync();
        var began = new TaskCompletionSource();
        var reading = Read();
        var ended = process.WaitForExitAsync();

        var moment = until is null ? Task.Delay(s_patience) : until(began.Task);
        if (await Task.WhenAny(ended, moment) == moment)
        {
            process.Kill(); // SIGKILL, where there are signals
            Assert.True(until is not null, $"{stage} was not done after {s_patience}.");
        }
        await ended;

        var lines = await reading;
        return new Survivor(
            string.Join('\n', lines.Select(line => $"{line.At.TotalMilliseconds,6:F0} ms {line.Text}")) + "\n" + await errors,
            When("ready"), When("trained"), Hash("weights "), Hash("loaded "));

        async Task<List<(TimeSpan At, string Text)>> Read()
        {
            List<(TimeSpan, string)> read = [];
            while (await process.StandardOutput.ReadLineAsync() is { } line)
            {
                read.Add((clock.Elapsed, line));
                if (line == "ready")
                    began.SetResult();
            }
            return read;
        }

        TimeSpan? When(string text) => lines.Where(line => line.Text == text).Select(line => (TimeSpan?)line.At).FirstOrDefault();

        string? Hash(string start) =>
            lines.Select(line => line.Text).FirstOrDefault(line => line.StartsWith(start, StringComparison.Ordinal))?[start.Length..];
    }
}
