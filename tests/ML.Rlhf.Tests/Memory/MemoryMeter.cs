using System.Globalization;
using System.Runtime.InteropServices;
using System.Text.RegularExpressions;
using TorchSharp;

namespace ML.Rlhf.Tests.Memory;

/// <summary>How a process grows over many repetitions of the same work.</summary>
/// <param name="Tensors">Live tensors: the largest difference of any repetition to the first few.</param>
/// <param name="Managed">Bytes on the managed heap, without what the garbage collector has yet to take.</param>
/// <param name="Native">Bytes that malloc has given out and not got back: libtorch's tensors, and all else that is not managed.</param>
/// <param name="Resident">Bytes of memory that are the process' own.</param>
/// <param name="Allocated">Managed bytes that one repetition allocates on its thread: what the garbage collector has to do.</param>
internal sealed partial record MemoryGrowth(long Tensors, long Managed, long Native, long Resident, long Allocated)
{
    public override string ToString() => string.Create(CultureInfo.InvariantCulture,
        $"tensors={Tensors:+0;-0;+0} managed={Managed / 1e3:+0.0;-0.0;+0.0}KB native={Native / 1e3:+0.0;-0.0;+0.0}KB " +
        $"rss={Resident / 1e6:+0.00;-0.00;+0.00}MB allocates={Allocated / 1e3:0.0}KB");

    /// <summary>From a line that ends with what <see cref="ToString"/> gives.</summary>
    public static MemoryGrowth Parse(string line)
    {
        double[] numbers = [.. Number().Matches(line).TakeLast(5).Select(m => double.Parse(m.Groups[1].Value, CultureInfo.InvariantCulture))];
        return new MemoryGrowth(
            (long)numbers[0], (long)(numbers[1] * 1e3), (long)(numbers[2] * 1e3), (long)(numbers[3] * 1e6), (long)(numbers[4] * 1e3));
    }

    [GeneratedRegex(@"=([+-]?[\d.]+)")]
    private static partial Regex Number();
}

/// <summary>
/// Measures the memory of a process while it does the same again and again. Tensors are counted after every repetition. Bytes are measured
/// now and then after the first quarter, and grow by as much as the median of those intervals: a buffer that comes or goes once is no
/// leak, and hides none. Needs Linux and glibc.
/// </summary>
internal sealed class MemoryMeter(int repetitions)
{
    private const int FirstFew = 10, Intervals = 16;

    private readonly List<(long Managed, long Native, long Resident)> _samples = [];
    private readonly List<long> _allocated = new(repetitions);
    private long _tensors, _tensorGrowth, _allocatedBefore;

    public static bool IsSupported => OperatingSystem.IsLinux() && NativeLibrary.TryGetExport(
        NativeLibrary.GetMainProgramHandle(), "mallinfo2", out _);

    /// <summary>Over all repetitions.</summary>
    public MemoryGrowth Growth => new(
        _tensorGrowth, Steady(s => s.Managed), Steady(s => s.Native), Steady(s => s.Resident), Median(_allocated));

    /// <param name="repetition">Which one has ended, from 1.</param>
    public void After(int repetition)
    {
        _allocated.Add(GC.GetAllocatedBytesForCurrentThread() - _allocatedBefore);

        long tensors = torch.Tensor.TotalCount;
        if (repetition <= FirstFew)
            _tensors = tensors;
        else if (Math.Abs(tensors - _tensors) > Math.Abs(_tensorGrowth))
            _tensorGrowth = tensors - _tensors;

        if (repetition >= repetitions / 4 && (repetitions - repetition) % Interval == 0)
            _samples.Add(Sample());
        _allocatedBefore = GC.GetAllocatedBytesForCurrentThread();
    }

    private int Interval => repetitions * 3 / 4 / Intervals;

    private long Steady(Func<(long Managed, long Native, long Resident), long> of) =>
        Median(_samples.Zip(_samples.Skip(1), (before, after) => of(after) - of(before))) * repetitions / Interval;

    private static (long Managed, long Native, long Resident) Sample()
    {
        GC.Collect(GC.MaxGeneration, GCCollectionMode.Aggressive, blocking: true, compacting: true);
        GC.WaitForPendingFinalizers();
        GC.Collect(GC.MaxGeneration, GCCollectionMode.Aggressive, blocking: true, compacting: true);
        malloc_trim(0);
        var native = mallinfo2();
        string[] pages = File.ReadAllText("/proc/self/statm").Split(' '); // 1: resident, 2: of those, files and what is shared
        long resident = long.Parse(pages[1], CultureInfo.InvariantCulture) - long.Parse(pages[2], CultureInfo.InvariantCulture);
        return (GC.GetTotalMemory(forceFullCollection: false), (long)(native.UsedBlocks + native.UsedMaps),
            resident * Environment.SystemPageSize);
    }

    private static long Median(IEnumerable<long> numbers)
    {
        long[] ordered = [.. numbers.Order()];
        return ordered[ordered.Length / 2];
    }

    [DllImport("libc")]
    private static extern MallocStatistics mallinfo2();

    [DllImport("libc")]
    private static extern int malloc_trim(nuint pad);

    /// <summary><c>struct mallinfo2</c> of malloc.h.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private readonly struct MallocStatistics
    {
        public readonly nuint Arena, FreeBlocks, FreeFastBlocks, Maps, UsedMaps, Unused, FreedFast, UsedBlocks, Free, Top;
    }
}
