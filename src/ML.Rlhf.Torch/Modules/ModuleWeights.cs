using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace ML.Rlhf.Torch.Modules;

internal static class ModuleWeights
{
    /// <summary>A parameter of a module, which outlives the dispose scope in which the module is built.</summary>
    public static Parameter Parameter(Tensor values)
    {
        var parameter = nn.Parameter(values);
        parameter.DetachFromDisposeScope();
        return parameter;
    }

    /// <summary>Copies all parameters of a module of the same shape.</summary>
    public static void CopyWeightsFrom(this Module target, Module source)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        foreach (var ((_, to), (_, from)) in target.named_parameters().Zip(source.named_parameters()))
            to.copy_(from);
    }

    /// <summary>A module that only answers: no gradients, no dropout.</summary>
    public static T Freeze<T>(this T module) where T : Module
    {
        module.eval();
        foreach (var parameter in module.parameters())
            parameter.requires_grad_(false);
        return module;
    }
}
