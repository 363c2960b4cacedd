using System.Globalization;
using ML.Rlhf.Tests.Bridge;
using ML.Rlhf.TestSupport;

namespace ML.Rlhf.Tests.Data;

/// <summary>
/// Millions of rows, in a process of their own whose memory the system measures: read from JSON Lines, tokenized, and packed, into windows
/// for pretraining and into shared sequences for fine-tuning. The environment variable ML_RLHF_ROWS says how many rows.
/// </summary>
public sealed class ManyRowsTests : IDisposable
{
    private const int DefaultRows = 2_000_000;

    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact, Trait("Tier", "Slow")]
    public void Millions_of_rows_are_read_tokenized_and_packed_in_less_than_a_gigabyte()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "/proc/self/status has the most memory that the process took.");
        int rows = int.TryParse(Environment.GetEnvironmentVariable("ML_RLHF_ROWS"), CultureInfo.InvariantCulture, out int asked)
            ? asked
            : DefaultRows;
        string output = Directory.CreateDirectory(Path.Combine(_folder, "out")).FullName;
        Directory.CreateSymbolicLink(Path.Combine(output, "runtimes"), Path.Combine(AppContext.BaseDirectory, "runtimes")); // libtorch

        string[] lines = FreshProcess.Run(_folder, Program.Replace("ROWS", $"{rows}")).Split('\n');

        Assert.Equal(2, lines.Length);
        foreach (string line in lines)
        {
            ResultLine.Print(line);
            var match = System.Text.RegularExpressions.Regex.Match(
                line, @"^rows (\d+) rows/s=(\d+) peak=(\d+)MB tokens=(\d+) \((documents in windows|demonstrations, packed)\)$");
            Assert.True(match.Success, line);
            long Number(int group) => long.Parse(match.Groups[group].Value, CultureInfo.InvariantCulture);
            Assert.Equal(rows, Number(1));
            Assert.InRange(Number(2), 5_000, long.MaxValue);
            Assert.InRange(Number(3), 1, 1023);
            Assert.InRange(Number(4), 8L * rows, 25L * rows);
        }
    }

    /// <summary>Each trainer reports its first step after it has read all rows; then it is told to stop.</summary>
    private const string Program = """
        using System.Diagnostics;
        using System.Text.RegularExpressions;
        using Microsoft.ML;
        using ML.Rlhf;

        const int Rows = ROWS;
        WriteRows("rows.jsonl");
        var ml = new MLContext(seed: 1);
        string read = "";
        ml.Log += (_, e) => read = Regex.IsMatch(e.RawMessage, @"^\d+ (documents|demonstrations), ") ? e.RawMessage : read;
        var data = ml.Data.LoadFromJsonLines<Demonstration>("rows.jsonl");
        var tokenizer = ml.Rlhf().Tokenizers.TrainByteLevelBpe(ml.Data.TakeRows(data, 20_000), 4096, "Completion");

        var pretraining = new GptOptions
        {
            Architecture = GptArchitecture.Nano with { ContextLength = 64 },
            Tokenizer = tokenizer,
            TextColumnName = "Completion",
            Steps = 1,
            BatchSize = 64,
        };
        Measure("documents in windows", progress => ml.Rlhf().Trainers.Gpt(pretraining with { Progress = progress }).Fit(data));

        var model = ml.Rlhf().Trainers.Gpt(pretraining).Fit(ml.Data.TakeRows(data, 1000));
        var tuning = new SupervisedFineTuningOptions { Packing = true, Epochs = 1, BatchSize = 64 };
        Measure("demonstrations, packed",
            progress => ml.Rlhf().Trainers.SupervisedFineTuning(model, tuning with { Progress = progress }).Fit(data));

        void Measure(string what, Action<IProgress<TrainingProgress>> fit)
        {
            GC.Collect(); // what was measured before is not a part of this
            var first = new FirstStep();
            try
            {
                fit(first);
            }
            catch (OperationCanceledException)
            {
            }
            var numbers = Regex.Matches(read, @"\d+").Select(number => long.Parse(number.Value)).ToArray();
            if (numbers[0] != Rows || first.Seconds == 0)
                throw new Exception($"read '{read}', after {first.Seconds} s");
            long peak = File.ReadLines("/proc/self/status").Where(line => line.StartsWith("VmHWM:"))
                .Select(line => long.Parse(Regex.Match(line, @"\d+").Value) >> 10).Single();
            Console.WriteLine($"rows {numbers[0]} rows/s={Rows / first.Seconds:F0} peak={peak}MB tokens={numbers[1]} ({what})");
        }

        // About 15 tokens a row, of words that are frequent and rare as words are.
        static void WriteRows(string path)
        {
            var random = new Random(1);
            string[] words = [.. Enumerable.Range(0, 20_000).Select(_ => string.Concat(Enumerable.Range(0, 2 + random.Next(7))
                .Select(_ => (char)('a' + (int)(26 * random.NextDouble() * random.NextDouble())))))];
            using var file = new StreamWriter(path);
            for (int row = 0; row < Rows; row++)
            {
                file.Write("{\"prompt\": \"");
                Write(file, 1 + random.Next(3));
                file.Write("\", \"completion\": \"");
                Write(file, 4 + random.Next(8));
                file.Write("\"}\n");
            }

            void Write(TextWriter file, int count)
            {
                for (int i = 0; i < count; i++)
                {
                    if (i > 0)
                        file.Write(' ');
                    file.Write(words[(int)(words.Length * Math.Pow(random.NextDouble(), 4))]);
                }
            }
        }

        /// <summary>Stops the run at its first step.</summary>
        sealed class FirstStep : IProgress<TrainingProgress>
        {
            private readonly Stopwatch _clock = Stopwatch.StartNew();

            public double Seconds { get; private set; }

            public void Report(TrainingProgress progress)
            {
                Seconds = _clock.Elapsed.TotalSeconds;
                throw new OperationCanceledException();
            }
        }
        """;
}
