using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace ML.Rlhf.Torch.Modules;

/// <summary>
/// A linear layer, x·Wᵀ + b, which may have an adapter. Its numbers are undefined until they are initialised or read from a file.
/// </summary>
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

    /// <summary>What is added to the layer, or null.</summary>
    public LowRankAdapter? Adapter { get; private set; }

    /// <summary>Gives the layer an adapter, on its device.</summary>
    public void Attach(LowRankAdapter adapter)
    {
        Adapter = adapter.to(weight.device);
        adapter.train(training);
        register_module("lora", adapter);
    }

    /// <param name="x">(…, in).</param>
    /// <returns>(…, out).</returns>
    public override Tensor forward(Tensor x)
    {
        var y = functional.linear(x, weight, bias);
        return Adapter is null ? y : y + Adapter.forward(x);
    }
}
