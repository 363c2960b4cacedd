using System.Runtime.InteropServices;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Training;

/// <summary>Tensors of token ids that are written where they lie: no array as large as a batch comes and goes with each step.</summary>
internal static class TokenTensor
{
    /// <summary>Zeros, int64, in the CPU's memory.</summary>
    public static Tensor Zeros(params ReadOnlySpan<long> shape) => zeros(shape, dtype: int64);

    /// <summary>The numbers of a tensor in the CPU's memory. They live as long as it does.</summary>
    public static Span<long> Numbers(this Tensor onCpu) => MemoryMarshal.Cast<byte, long>(onCpu.bytes);

    /// <summary>A tensor of the CPU's on a device; where that is the CPU, the tensor itself.</summary>
    public static Tensor On(this Tensor onCpu, Device device)
    {
        if (device.type == DeviceType.CPU)
            return onCpu;
        using (onCpu)
            return onCpu.to(device);
    }
}
