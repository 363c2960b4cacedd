using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace ML.Rlhf.Torch.Modules;

/// <summary>
/// One flat buffer that holds all parameters of some modules, and one that holds their gradients. The modules keep working as before:
/// their parameters have become views.
/// </summary>
internal sealed class ParameterBuffer : IDisposable
{
    private readonly Parameter[] _parameters;

    public ParameterBuffer(params Module[] modules)
    {
        // Matrices first: they are what weight decay applies to.
        _parameters = [.. modules.SelectMany(m => m.parameters()).Where(p => p.requires_grad).OrderBy(p => p.ndim >= 2 ? 0 : 1)];
        long total = _parameters.Sum(p => p.numel());
        MatrixElements = _parameters.Where(p => p.ndim >= 2).Sum(p => p.numel());

        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        var (dtype, device) = (_parameters[0].dtype, _parameters[0].device);
        Values = empty(total, dtype: dtype, device: device).DetachFromDisposeScope();
        Gradients = zeros(total, dtype: dtype, device: device).DetachFromDisposeScope();
        long offset = 0;
        foreach (var parameter in _parameters)
        {
            long count = parameter.numel();
            var view = Values.narrow(0, offset, count).view(parameter.shape);
            view.copy_(parameter);
            parameter.set_(view);
            parameter.grad = Gradients.narrow(0, offset, count).view(parameter.shape);
            offset += count;
        }
    }

    /// <summary>All parameters, one after another.</summary>
    public Tensor Values { get; }

    /// <summary>All gradients, in the same order. Backward passes add to it.</summary>
    public Tensor Gradients { get; }

    /// <summary>How many elements at the front belong to matrices and embeddings.</summary>
    public long MatrixElements { get; }

    /// <summary>
    /// Gives every parameter a storage of its own again, with the values that it has now, and no gradient. A module that lives on would
    /// otherwise keep the memory of all the others: the policy that of its value function.
    /// </summary>
    public void Dispose()
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        foreach (var parameter in _parameters)
        {
            parameter.grad = null;
            parameter.set_(parameter.detach().clone());
        }
        Values.Dispose();
        Gradients.Dispose();
    }
}
