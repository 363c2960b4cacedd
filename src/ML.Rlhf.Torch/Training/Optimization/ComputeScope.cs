using ML.Rlhf.Torch.Kernels;
using ML.Rlhf.Torch.Modules;
using static TorchSharp.torch.nn;

namespace ML.Rlhf.Torch.Training;

/// <summary>
/// Lets models compute as a run asks for, until it is disposed; the kernels' memory is given back then. All models of a run use the same
/// precision: policy and reference are compared with each other.
/// </summary>
internal sealed class ComputeScope : IDisposable
{
    private readonly CausalLanguageModel[] _models;

    private ComputeScope(OptimizationOptions options, Module[] modules)
    {
        _models = [.. ModelsOf(modules)];
        if (options.ActivationCheckpointing && !(_models.Length > 0 && _models.All(model => model.HasCheckpoints)))
            throw new ArgumentException(
                $"{nameof(OptimizationOptions.ActivationCheckpointing)} is true, and only a {nameof(Gpt)} or a {nameof(Llama)} has blocks " +
                $"that can be computed again. Choose false; a smaller {nameof(OptimizationOptions.MicroBatchSize)} saves memory everywhere.");
        var precision = Choose(options.Precision, haveKernels: _models.Length > 0 && _models.All(model => model.HasKernels));
        foreach (var model in _models)
            (model.Precision, model.ActivationCheckpointing) = (precision, options.ActivationCheckpointing);
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

    /// <param name="options">How models compute.</param>
    /// <param name="modules">All that compute in the run, frozen ones too.</param>
    /// <exception cref="ArgumentException">What is asked for is not there: kernels for bfloat16, or blocks to compute again.</exception>
    public static ComputeScope Begin(OptimizationOptions options, params Module[] modules) => new(options, modules);

    /// <summary>What modules compute in now.</summary>
    public static Precision Of(Module[] modules) =>
        ModelsOf(modules).Any(model => model.Precision == Precision.BFloat16) ? Precision.BFloat16 : Precision.Float32;

    private static IEnumerable<CausalLanguageModel> ModelsOf(Module[] modules) =>
        modules.Select(module => (module as ScalarGpt)?.Trunk ?? module as CausalLanguageModel).OfType<CausalLanguageModel>();

    public void Dispose()
    {
        foreach (var model in _models)
            (model.Precision, model.ActivationCheckpointing) = (Precision.Float32, false);
        GptTrunkFunction.Free();
        HeadFunction.Free();
        KernelMemory.Free();
    }
}
