using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Kernels;

/// <summary>Where the numbers of a parameter are, and where its gradient is added up.</summary>
/// <param name="tensor">float32, contiguous, on the CPU.</param>
/// <param name="withGradient">Whether the gradient is wanted; it is made where the parameter has none.</param>
internal readonly unsafe struct ParameterPointer(Tensor tensor, bool withGradient)
{
    public readonly float* Value = TensorMemory.Floats(tensor);
    public readonly float* Gradient = withGradient ? GradientOf(tensor) : null;

    private static float* GradientOf(Tensor parameter)
    {
        using var scope = NewDisposeScope();
        if (parameter.grad is null)
            parameter.grad = zeros_like(parameter);
        return TensorMemory.Floats(parameter.grad!);
    }
}

/// <summary>The parameters of a transformer block, in the order of the computation.</summary>
internal struct BlockPointers
{
    public ParameterPointer Norm1Gain, Norm1Bias, QkvWeight, QkvBias, ProjectWeight, ProjectBias;
    public ParameterPointer Norm2Gain, Norm2Bias, UpWeight, UpBias, DownWeight, DownBias;
}

/// <summary>The parameters of a GPT.</summary>
internal sealed class GptPointers
{
    public required ParameterPointer TokenEmbedding { get; init; }

    public required ParameterPointer PositionEmbedding { get; init; }

    public required BlockPointers[] Blocks { get; init; }

    public required ParameterPointer LastNormGain { get; init; }

    public required ParameterPointer LastNormBias { get; init; }
}

/// <summary>The memory of tensors.</summary>
internal static unsafe class TensorMemory
{
    /// <param name="tensor">float32, contiguous, on the CPU. It must outlive the pointer.</param>
    public static float* Floats(Tensor tensor)
    {
        using var scope = NewDisposeScope();
        return (float*)First(tensor);
    }

    /// <param name="tensor">int64, contiguous, on the CPU. It must outlive the pointer.</param>
    public static long* Longs(Tensor tensor)
    {
        using var scope = NewDisposeScope();
        return (long*)First(tensor);
    }

    /// <summary>A span ends at two gigabytes; a tensor does not.</summary>
    private static void* First(Tensor tensor)
    {
        var first = tensor.NumberOfElements * tensor.ElementSize < int.MaxValue ? tensor : tensor.detach().view(-1).narrow(0, 0, 1);
        fixed (byte* memory = first.bytes)
            return memory;
    }
}
