using BenchmarkDotNet.Attributes;
using BenchmarkDotNet.Configs;
using BenchmarkDotNet.Jobs;
using BenchmarkDotNet.Running;
using BenchmarkDotNet.Toolchains.InProcess.Emit;
using ML.Rlhf.Benchmarks.Works;
using ML.Rlhf.Torch;
using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Generation;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Benchmarks.Micro;

/// <summary>Runs BenchmarkDotNet on the parts below.</summary>
internal static class MicroBenchmarks
{
    /// <param name="arguments">BenchmarkDotNet's own; by default, all parts.</param>
    public static void Run(string[] arguments)
    {
        // In this process: libtorch is half a gigabyte, and the project that BenchmarkDotNet would make does not find it.
        var job = Job.ShortRun.WithToolchain(InProcessEmitToolchain.Instance);
        BenchmarkSwitcher.FromTypes([typeof(TrainingParts), typeof(GenerationParts)])
            .Run(arguments.Length > 0 ? arguments : ["--filter", "*"], DefaultConfig.Instance.AddJob(job));
    }
}

/// <summary>What a training step of 6 × 384 is made of: 16 rows of 256 tokens, width 384, vocabulary 512.</summary>
[MemoryDiagnoser]
public class TrainingParts
{
    private const int Rows = 16, Tokens = 256, Vocabulary = 512;

    private readonly GptArchitecture _architecture = ((TrainingWork)AllWorks.Find("train-6x384")[0]).Model;
    private readonly int[][] _rows = RandomData.Rows(Rows, Tokens, Vocabulary);
    private Gpt _model = null!, _block = null!;
    private AdamW _optimizer = null!;
    private Tensor _ids = null!, _logits = null!, _labels = null!;

    [GlobalSetup]
    public void Setup()
    {
        _model = RandomData.Model(_architecture);
        _block = RandomData.Model(_architecture with { Layers = 1 });
        _optimizer = new AdamW(new Options { LearningRate = 1e-4, WeightDecay = 0.1 }, _model);
        using (NewDisposeScope())
            _optimizer.Gradients.fill_(1e-4);
        _ids = randint(Vocabulary, [Rows, Tokens], dtype: int64);
        _logits = randn([Rows * Tokens, Vocabulary], requires_grad: true);
        _labels = randint(Vocabulary, [Rows * Tokens], dtype: int64);
    }

    /// <summary>Clipping and AdamW over all 10.9 M parameters.</summary>
    [Benchmark]
    public double OptimizerStep() => _optimizer.Step(1e-4);

    /// <summary>Embeddings, one block, the last norm.</summary>
    [Benchmark]
    public void BlockForward()
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        _block.Hidden(_ids);
    }

    [Benchmark]
    public void BlockForwardAndBackward()
    {
        using var scope = NewDisposeScope();
        _block.Hidden(_ids).sum().backward();
    }

    [Benchmark]
    public void CrossEntropyForwardAndBackward()
    {
        using var scope = NewDisposeScope();
        LanguageModelLoss.CrossEntropySum(_logits, _labels).backward();
    }

    [Benchmark]
    public void PadBatch()
    {
        using var scope = NewDisposeScope();
        PaddedBatch.Create(_rows, CPU);
    }

    private sealed record Options : OptimizationOptions;
}

/// <summary>Drawing tokens, with a model that costs nothing: what is left is the sampler.</summary>
[MemoryDiagnoser]
public class GenerationParts
{
    private const int NewTokens = 32;

    private int[][] _prompts = null!;
    private RandomStream[] _streams = null!;
    private Gpt _model = null!;

    [Params(512, 50257)]
    public int Vocabulary { get; set; }

    [Params(1, 32)]
    public int Batch { get; set; }

    [GlobalSetup]
    public void Setup()
    {
        _model = RandomData.Model(new() { Layers = 1, Heads = 1, Width = 8, ContextLength = 64, VocabularySize = Vocabulary });
        _model.eval();
        _prompts = RandomData.Rows(Batch, length: 16, Vocabulary);
        _streams = [.. _prompts.Select((_, i) => new RandomStream(1, key: (ulong)i))];
    }

    /// <summary>One token for each row.</summary>
    [Benchmark(OperationsPerInvoke = NewTokens)]
    public void SampleToken() => Sampler.Generate(
        _model, _prompts, _streams, stop: 0, new SamplingOptions { MaxNewTokens = NewTokens }, minimumTokens: NewTokens);

    /// <summary>The same from the 50 likeliest.</summary>
    [Benchmark(OperationsPerInvoke = NewTokens)]
    public void SampleTokenFromTopK() => Sampler.Generate(
        _model, _prompts, _streams, stop: 0, new SamplingOptions { MaxNewTokens = NewTokens, TopK = 50 }, minimumTokens: NewTokens);
}
