using TorchSharp.Modules;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace ML.Rlhf.Torch.Modules;

/// <summary>A linear layer, x·Wᵀ + b. Its numbers are undefined until they are initialised or read from a file.</summary>
internal sealed class Projection : Module<Tensor, Tensor>
{
    public readonly Parameter weight;                                                         // (out, in)
    public readonly Parameter? bias;                                                          // (out)

    public Projection(long inputs, long outputs, bool hasBias = true) : base(nameof(Projection))
    {
        weight = ModuleWeights.Parameter(empty(outputs, inputs));
        bias = hasBias ? ModuleWeights.Parameter(empty(outputs)) : null;
        RegisterComponents();
    }

    /// <param name="x">(…, in).</param>
    /// <returns>(…, out).</returns>
    public override Tensor forward(Tensor x) => functional.linear(x, weight, bias);
}
