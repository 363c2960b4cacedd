using System.Diagnostics;
using Microsoft.ML;

namespace ML.Rlhf.Tests.Catalog;

/// <summary>Measures the memory of the whole process, and therefore runs while no other test does.</summary>
[CollectionDefinition(nameof(TrainingMemoryTests), DisableParallelization = true)]
[Collection(nameof(TrainingMemoryTests))]
[Trait("Tier", "Slow")]
public sealed class TrainingMemoryTests
{
    private readonly MLContext _ml = new(seed: 1);

    /// <summary>
    /// One step makes a hundred tensors of about 8 KB (4 × 32 × 16 floats): losing them would cost a gigabyte. Compiled code and
    /// allocators settle within some megabytes.
    /// </summary>
    [Theory, EveryStage]
    public void Fifteen_hundred_more_steps_take_no_more_memory(Stage stage)
    {
        const int Warm = 200, More = 1500;
        long atWarm = 0, atEnd = 0;
        var progress = new ProgressRecords(p =>
        {
            if (p.Step == Warm)
                atWarm = ResidentBytes();
            if (p.Step == Warm + More)
                atEnd = ResidentBytes();
        });

        ((IDisposable)stage.Trainer(_ml, new StageSettings { Steps = Warm + More, Progress = progress }).Fit(stage.Data(_ml))).Dispose();

        Assert.InRange(atEnd - atWarm, long.MinValue, 24 << 20);
    }

    /// <summary>Without what the garbage collector has yet to take.</summary>
    private static long ResidentBytes()
    {
        GC.Collect();
        GC.WaitForPendingFinalizers();
        GC.Collect();
        using var process = Process.GetCurrentProcess();
        return process.WorkingSet64;
    }
}
