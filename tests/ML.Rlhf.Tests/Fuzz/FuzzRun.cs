using System.Diagnostics;
using System.Globalization;
using ML.Rlhf.TestSupport;

namespace ML.Rlhf.Tests.Fuzz;

/// <summary>What became of many damaged files.</summary>
internal sealed record FuzzResult(
    string Format, int Count, int Read, int Refused, double SlowestMilliseconds, IReadOnlyList<string> Failures)
{
    /// <summary>One plain line; the peak is that of the process.</summary>
    public override string ToString() => string.Create(CultureInfo.InvariantCulture,
        $"fuzz {Format} {Count} read={Read} refused={Refused} failed={Failures.Count} slowest={SlowestMilliseconds:F0}ms " +
        $"peak={PeakMegabytes}MB");

    /// <summary>The most memory that this process ever had, in MB; 0 where the system does not say.</summary>
    public static long PeakMegabytes => !File.Exists("/proc/self/status") ? 0 : long.Parse(
        File.ReadLines("/proc/self/status").First(line => line.StartsWith("VmHWM:", StringComparison.Ordinal)).Split(
            [' ', '\t'], StringSplitOptions.RemoveEmptyEntries)[1], CultureInfo.InvariantCulture) / 1024;
}

/// <summary>Reads damaged files one after another, each within a time, and looks at what it leaves behind.</summary>
internal static class FuzzRun
{
    /// <summary>Far above what any of these small files takes, also on a busy machine.</summary>
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(20);

    /// <summary>The smallest stack that threads have by default on any system: deep recursion shows.</summary>
    private const int StackBytes = 1 << 20;

    private const int MaximumFailures = 10;

    /// <summary>Damages and reads.</summary>
    /// <param name="name">The format.</param>
    /// <param name="firstSeed">Seed of the first file.</param>
    /// <param name="count">How many.</param>
    /// <param name="keep">Where files are kept that break something; null for nowhere.</param>
    public static FuzzResult Run(string name, int firstSeed, int count, string? keep = null)
    {
        using var format = FuzzFormat.Create(name);
        return OnOneThread(name, count, keep, format, i => format.Damage(new Mutator(firstSeed + i)), i => $"seed {firstSeed + i}");
    }

    /// <summary>Reads given files.</summary>
    public static FuzzResult Run(FuzzFormat format, string name, IReadOnlyList<(string Name, FuzzInput Input)> inputs) =>
        OnOneThread(name, inputs.Count, null, format, i => inputs[i].Input, i => inputs[i].Name);

    private static FuzzResult OnOneThread(
        string name, int count, string? keep, FuzzFormat format, Func<int, FuzzInput> inputOf, Func<int, string> describe)
    {
        int read = 0, refused = 0, current = 0;
        double slowest = 0;
        long started = Stopwatch.GetTimestamp();
        var failures = new List<string>();
        Exception? broken = null;
        var thread = new Thread(ReadAll, StackBytes) { IsBackground = true };
        thread.Start();
        while (!thread.Join(TimeSpan.FromSeconds(0.5)))
        {
            if (Stopwatch.GetElapsedTime(Volatile.Read(ref started)) > s_patience)
            {
                Fail(current, inputOf(current), $"takes more than {s_patience.TotalSeconds} s");
                break; // the thread is lost
            }
        }
        return broken is null
            ? new FuzzResult(name, count, read, refused, slowest, failures)
            : throw new InvalidOperationException($"{name}, {describe(current)}: the test itself failed.", broken);

        void ReadAll()
        {
            try
            {
                for (int i = 0; i < count && failures.Count < MaximumFailures; i++)
                {
                    var input = inputOf(i);
                    current = i;
                    Volatile.Write(ref started, Stopwatch.GetTimestamp());
                    ReadOne(i, input);
                    slowest = Math.Max(slowest, Stopwatch.GetElapsedTime(started).TotalMilliseconds);
                }
            }
            catch (Exception e)
            {
                broken = e;
            }
        }

        void ReadOne(int i, FuzzInput input)
        {
            long tensors = LiveTensors.Count;
            try
            {
                format.Read(input);
                read++;
            }
            catch (Exception e) when (format.IsRefusal(e))
            {
                refused++;
            }
            catch (Exception e)
            {
                Fail(i, input, e.ToString());
            }
            if (LiveTensors.Count != tensors && i > 0) // what the first one makes once per process is not left behind
                Fail(i, input, $"leaves {LiveTensors.Count - tensors} tensors behind");
        }

        void Fail(int i, FuzzInput input, string problem)
        {
            if (keep is not null)
            {
                string path = Path.Combine(keep, name, input.Place, describe(i).Replace(' ', '-'));
                Directory.CreateDirectory(Path.GetDirectoryName(path)!);
                File.WriteAllBytes(path, input.Content);
            }
            failures.Add($"{name}, {describe(i)} ({input.Place}): {problem}");
        }
    }
}
