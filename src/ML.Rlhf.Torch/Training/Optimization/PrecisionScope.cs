using ML.Rlhf.Torch.Kernels;
using ML.Rlhf.Torch.Modules;
using static TorchSharp.torch.nn;

namespace ML.Rlhf.Torch.Training;

/// <summary>
/// Lets models compute in the precision that a run asks for, until it is disposed; the kernels' memory is given back then. All models of
/// a run use the same one: policy and reference are compared with each other.
/// </summary>
internal sealed class PrecisionScope : IDisposable
{
    private readonly CausalLanguageModel[] _models;

    /// <exception cref="ArgumentException">bfloat16 was asked for, and there are no kernels for it here.</exception>
    private PrecisionScope(Precision precision, CausalLanguageModel[] models)
    {
        _models = models;
        var chosen = Choose(precision, haveKernels: models.Length > 0 && models.All(model => model.HasKernels));
        foreach (var model in models)
            model.Precision = chosen;
    }

    /// <summary>What is computed in where somebody asks for a precision.</summary>
    /// <exception cref="ArgumentException">bfloat16 was asked for, and there are no kernels for it here.</exception>
    public static Precision Choose(Precision precision, bool haveKernels) => precision switch
    {
        Precision.BFloat16 when !haveKernels => throw new ArgumentException(
            $"{nameof(Precision)} is {nameof(Precision.BFloat16)}, and there are kernels for it only on a Linux x64 processor with " +
            "AVX512-BF16, and for a GPT of GPT-2's form (norms before, tanh GELU, widths in multiples of 16) on the CPU and without " +
            $"adapters. Choose {nameof(Precision.Float32)}, or {nameof(Precision.Auto)}, which takes it where it can."),
        Precision.Auto => haveKernels ? Precision.BFloat16 : Precision.Float32,
        _ => precision,
    };

    /// <param name="options">Their precision.</param>
    /// <param name="modules">All that compute in the run, frozen ones too.</param>
    public static PrecisionScope Begin(OptimizationOptions options, params Module[] modules) =>
        new(options.Precision, [.. ModelsOf(modules)]);

    /// <summary>What modules compute in now.</summary>
    public static Precision Of(Module[] modules) =>
        ModelsOf(modules).Any(model => model.Precision == Precision.BFloat16) ? Precision.BFloat16 : Precision.Float32;

    private static IEnumerable<CausalLanguageModel> ModelsOf(Module[] modules) =>
        modules.Select(module => (module as ScalarGpt)?.Trunk ?? module as CausalLanguageModel).OfType<CausalLanguageModel>();

    public void Dispose()
    {
        foreach (var model in _models)
            model.Precision = Precision.Float32;
        GptTrunkFunction.Free();
        HeadLossFunction.Free();
        KernelMemory.Free();
    }
}
