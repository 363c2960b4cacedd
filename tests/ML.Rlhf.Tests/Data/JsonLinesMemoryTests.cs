using System.Text;
using Microsoft.ML;

namespace ML.Rlhf.Tests.Data;

/// <summary>Measures the memory of the whole process, and therefore runs while no other test does.</summary>
[CollectionDefinition(nameof(JsonLinesMemoryTests), DisableParallelization = true)]
[Collection(nameof(JsonLinesMemoryTests))]
public sealed class JsonLinesMemoryTests : IDisposable
{
    private const int Rows = 100_000;

    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void A_hundred_thousand_rows_are_read_without_being_kept()
    {
        var line = Encoding.UTF8.GetBytes($$"""{"prompt":"{{new string('p', 100)}}","completion":"{{new string('c', 200)}}"}""" + "\n");
        var path = Path.Combine(_folder, "big.jsonl");
        using (var file = File.Create(path))
        {
            for (var i = 0; i < Rows; i++)
                file.Write(line);
        }
        var data = new MLContext().Data.LoadFromJsonLines<Demonstration>(path);
        var read = 0;
        var before = GC.GetTotalMemory(forceFullCollection: true);

        foreach (var row in TextColumns.Read(data, ["Prompt", "Completion"]))
        {
            Assert.Equal((100, 200), (row[0].Length, row[1].Length));
            if (++read % (Rows / 4) == 0)
                Assert.InRange(GC.GetTotalMemory(forceFullCollection: true) - before, long.MinValue, 8 << 20); // the rows take 60 MB
        }

        Assert.Equal(Rows, read);
    }
}
