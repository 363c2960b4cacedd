using System.Runtime.InteropServices;
using Microsoft.ML;
using ML.Rlhf.Tests.Catalog;
using ML.Rlhf.TestSupport;
using TorchSharp;

namespace ML.Rlhf.Tests.Memory;

/// <summary>
/// Neither training nor predicting grows. It is measured in processes of their own, one for training and one for predicting, in which
/// nothing else is done. Each case prints a line, <c>flat-memory ppo steps=2000 tensors=+0 managed=+0.0KB native=+0.0KB rss=+0.00MB</c>,
/// and what .NET allocates meanwhile.
/// </summary>
[Trait("Tier", "Slow")]
public sealed class FlatMemoryTests
{
    private const string CasesVariable = "ML_RLHF_FLAT_MEMORY";
    private const int Steps = 2000, Predictions = 10_000, LostBytes = 1000;

    /// <summary>Well below what a lost kilobyte is; memory that is flat grows by a few bytes.</summary>
    private const double MostBytesPerRepetition = 300;

    private static readonly string[] s_trainers =
    [
        .. Enum.GetNames<Stage>(), "FineTuning-LoRA", "RewardModel-LoRA", "Ppo-LoRA", "Dpo-LoRA", "Gpt+tensor", "Gpt+managed", "Gpt+native",
    ];

    private static readonly string[] s_models = [.. Predictor.Names, "score+tensor", "score+managed", "score+native"];

    private static readonly Lazy<Task<string>[]> s_output = new(() => [Run(s_trainers), Run(s_models)]);

    public static TheoryData<string> Trainers => [.. s_trainers.Where(name => !name.Contains('+'))];

    public static TheoryData<string> Models => [.. s_models.Where(name => !name.Contains('+'))];

    public static TheoryData<string> Leaks => [.. s_trainers.Concat(s_models).Where(name => name.Contains('+'))];

    [Theory]
    [MemberData(nameof(Trainers))]
    public async Task Two_thousand_steps_take_no_more_memory_than_a_few(string trainer) => AssertFlat(await Measured(trainer), Steps);

    [Theory]
    [MemberData(nameof(Models))]
    public async Task Ten_thousand_predictions_take_no_more_memory_than_a_few(string model) =>
        AssertFlat(await Measured(model), Predictions);

    /// <summary>The measurements notice what they are for.</summary>
    [Theory]
    [MemberData(nameof(Leaks))]
    public async Task A_tensor_or_a_kilobyte_that_each_repetition_loses_is_noticed(string name)
    {
        int repetitions = char.IsUpper(name[0]) ? Steps : Predictions;
        var growth = await Measured(name);

        Assert.ThrowsAny<Exception>(() => AssertFlat(growth, repetitions));
        if (name.EndsWith("tensor"))
        {
            Assert.InRange(growth.Tensors, repetitions - 20, repetitions);
            return;
        }
        double lost = (double)LostBytes * repetitions;
        Assert.InRange(name.EndsWith("managed") ? growth.Managed : growth.Native, lost * 0.95, lost * 1.1);
        Assert.InRange(growth.Resident, lost * 0.5, lost * 1.5);
    }

    private static void AssertFlat(MemoryGrowth growth, int repetitions)
    {
        double most = MostBytesPerRepetition * repetitions;
        Assert.Equal(0, growth.Tensors);
        Assert.InRange(growth.Managed, double.MinValue, most);
        Assert.InRange(growth.Native, double.MinValue, most);
        Assert.InRange(growth.Resident, double.MinValue, most);
    }

    private static async Task<MemoryGrowth> Measured(string name)
    {
        Assert.SkipUnless(MemoryMeter.IsSupported, "Measuring needs Linux with glibc 2.33 or newer.");
        string output = await s_output.Value[s_trainers.Contains(name) ? 0 : 1];
        string line = output.Split('\n').FirstOrDefault(l => l.StartsWith($"flat-memory {name.ToLowerInvariant()} ", StringComparison.Ordinal))
            ?? throw new InvalidOperationException($"{name} was not measured:\n{output}");
        ResultLine.Print(line);
        return MemoryGrowth.Parse(line);
    }

    /// <summary>Measures in a process of its own, and gives what it prints.</summary>
    private static async Task<string> Run(string[] cases)
    {
        string[] arguments =
        [
            "exec", Path.Combine(AppContext.BaseDirectory, "ML.Rlhf.Tests.dll"), "--explicit", "only",
            "--filter-method", $"{typeof(FlatMemoryTests).FullName}.{nameof(Measure)}",
        ];
        var result = await DotNet.Run(AppContext.BaseDirectory, arguments,
            (CasesVariable, string.Join(',', cases)),
            ("OMP_NUM_THREADS", "1"),
            ("DOTNET_TieredCompilation", "0")); // what was compiled once stays: the compiler does not work beside us
        return result.Everything;
    }

    /// <summary>The measuring itself.</summary>
    [Fact(Explicit = true)]
    public void Measure()
    {
        foreach (string name in Environment.GetEnvironmentVariable(CasesVariable)?.Split(',') ?? [.. s_trainers, .. s_models])
        {
            bool isTrainer = Enum.TryParse<Stage>(name.Split('+', '-')[0], out var stage);
            int repetitions = isTrainer ? Steps : Predictions;
            var meter = new MemoryMeter(repetitions);
            var leak = Leak(name.Split('+').ElementAtOrDefault(1));
            void AfterEach(int repetition)
            {
                leak();
                meter.After(repetition);
            }
            if (isTrainer)
                Train(stage, name.EndsWith("-LoRA") ? new LoraOptions() : null, AfterEach);
            else
                Predict(name.Split('+')[0], AfterEach);
            Console.WriteLine($"flat-memory {name.ToLowerInvariant()} {(isTrainer ? "steps" : "predictions")}={repetitions} {meter.Growth}");
        }
    }

    private static void Predict(string name, Action<int> afterEach)
    {
        int done = 0;
        foreach (var _ in Predictor.Repeat(name).Take(Predictions))
            afterEach(++done);
    }

    private static void Train(Stage stage, LoraOptions? lora, Action<int> afterStep)
    {
        var ml = new MLContext(seed: 1);
        var settings = new StageSettings
        {
            Steps = Steps,
            Lora = lora,
            Dropout = 0.1,
            ValidationData = stage.IsOnline() ? null : stage.Data(ml),
            Progress = new Listener(p => afterStep(p.Step)),
        };
        ((IDisposable)stage.Trainer(ml, settings).Fit(stage.Data(ml))).Dispose();
    }

    private static readonly List<object> s_leaked = [];

    private static Action Leak(string? kind) => kind switch
    {
        "tensor" => () => s_leaked.Add(torch.zeros(1)),
        "managed" => () => s_leaked.Add(new byte[LostBytes]),
        "native" => () => Marshal.WriteByte(Marshal.AllocHGlobal(LostBytes), 1),
        _ => () => { },
    };

    /// <summary>Unlike <see cref="ProgressRecords"/>, it keeps nothing.</summary>
    private sealed class Listener(Action<TrainingProgress> listen) : IProgress<TrainingProgress>
    {
        public void Report(TrainingProgress value) => listen(value);
    }
}
