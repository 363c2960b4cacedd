using ML.Rlhf.Torch.Kernels;
using TorchSharp;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace ML.Rlhf.Torch.Training;

/// <summary>
/// AdamW (Loshchilov and Hutter 2017, arXiv 1711.05101, algorithm 2) over one flat buffer: every parameter of the modules becomes a view
/// into it, and every gradient a view into another, so a step is one pass over them (<see cref="AdamWKernel"/>; on a GPU, a handful of
/// operations), however many parameters there are.
/// Matrices come first in the buffer, so that weight decay is one product over its front.
/// </summary>
internal sealed class AdamW : IResumable, IDisposable
{
    private readonly Modules.ParameterBuffer _parameters;
    private readonly OptimizationOptions _options;
    private readonly Tensor _mean, _square;
    private readonly double[]? _blockSums; // null where libtorch computes: on a GPU
    private double _scale = 1; // what the gradient is multiplied with in the next step
    private int _step;

    /// <summary>Takes hold of the parameters of some modules until it is disposed.</summary>
    public AdamW(OptimizationOptions options, params Module[] modules)
    {
        _options = options;
        _parameters = new Modules.ParameterBuffer(modules);
        _mean = zeros_like(_parameters.Values).DetachFromDisposeScope();
        _square = zeros_like(_parameters.Values).DetachFromDisposeScope();
        if (_parameters.Values is { device_type: DeviceType.CPU, dtype: ScalarType.Float32 })
            _blockSums = new double[AdamWKernel.Blocks(_parameters.Values.numel())];
    }

    /// <summary>All parameters, one after another; it belongs to this.</summary>
    public Tensor Parameters => _parameters.Values;

    /// <summary>All gradients, in the same order; it belongs to this.</summary>
    public Tensor Gradients => _parameters.Gradients;

    /// <summary>Forgets the gradients of the last step.</summary>
    public void ZeroGradients()
    {
        using var scope = NewDisposeScope(); // operations in place return a tensor of their own
        _parameters.Gradients.zero_();
    }

    /// <summary>Clips the gradients and takes one step; none where the gradient has a NaN or an infinity.</summary>
    /// <param name="learningRate">The rate of this step.</param>
    /// <returns>L2 norm of the gradient before clipping; not finite where the step was not taken.</returns>
    public double Step(double learningRate)
    {
        double norm = Clip();
        if (double.IsFinite(norm))
            Descend(learningRate);
        return norm;
    }

    /// <summary>Clips the gradients: the next step takes them scaled down. Their buffer stays as it is.</summary>
    /// <returns>L2 norm of the gradient before clipping.</returns>
    /// <exception cref="NonFiniteGradientException">The gradient has a NaN or an infinity; no parameter was changed.</exception>
    public double ClipGradients()
    {
        double norm = Clip();
        return double.IsFinite(norm) ? norm : throw new NonFiniteGradientException(norm);
    }

    /// <summary>Takes one step, with the gradients as they were clipped.</summary>
    /// <param name="learningRate">The rate of this step.</param>
    public void Descend(double learningRate)
    {
        _step++;
        double correction1 = 1 - Math.Pow(_options.Beta1, _step), correction2 = 1 - Math.Pow(_options.Beta2, _step);
        // Both forms divide by √(v/(1 − β₂ᵗ)) + ε; TensorFlow's ε is corrected like v.
        double root = Math.Sqrt(correction2), epsilon = _options.Epsilon / (_options.AdamForm == AdamForm.TensorFlow ? root : 1);
        double keep = 1 - learningRate * _options.WeightDecay, rate = learningRate / correction1;
        if (_blockSums is null)
            DescendOnGpu(keep, rate, root, epsilon);
        else
            DescendOnCpu(keep, rate, root, epsilon);
        _scale = 1;
    }

    /// <summary>L2 norm of the parameters.</summary>
    public double WeightNorm()
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        return _parameters.Values.norm().ToDouble();
    }

    public int Version => _step;

    public bool IsFinite => double.IsFinite(WeightNorm());

    public void Visit(StateVisitor state)
    {
        state.Tensor("values", _parameters.Values);
        state.Tensor("mean", _mean);
        state.Tensor("square", _square);
        state.Value("step", ref _step);
    }

    /// <summary>Gives the parameters back to their modules and frees the optimiser's state.</summary>
    public void Dispose()
    {
        _mean.Dispose();
        _square.Dispose();
        _parameters.Dispose();
    }

    private unsafe void DescendOnCpu(double keep, double rate, double root, double epsilon) => AdamWKernel.Run(new AdamWStep
    {
        Values = TensorMemory.Floats(_parameters.Values),
        Gradients = TensorMemory.Floats(_parameters.Gradients),
        Mean = TensorMemory.Floats(_mean),
        Square = TensorMemory.Floats(_square),
        Count = _parameters.Values.numel(),
        Decaying = _parameters.MatrixElements,
        Keep = (float)keep,
        Scale = (float)_scale,
        Beta1 = (float)_options.Beta1,
        Beta2 = (float)_options.Beta2,
        Rest1 = (float)(1 - _options.Beta1),
        Rest2 = (float)(1 - _options.Beta2),
        Rate = (float)rate,
        RootScale = (float)(1 / root),
        Epsilon = (float)epsilon,
    });

    private void DescendOnGpu(double keep, double rate, double root, double epsilon)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        Tensor values = _parameters.Values, gradients = _parameters.Gradients;

        if (keep != 1)
            values.narrow(0, 0, _parameters.MatrixElements).mul_(keep);
        if (_scale != 1)
            gradients.mul_(_scale);
        _mean.mul_(_options.Beta1).add_(gradients, alpha: 1 - _options.Beta1);
        _square.mul_(_options.Beta2).addcmul_(gradients, gradients, 1 - _options.Beta2);
        values.addcdiv_(_mean, _square.sqrt().mul_(1 / root).add_(epsilon), -rate);
    }

    private double Clip()
    {
        double norm = GradientNorm();
        _scale = double.IsFinite(norm) && norm > _options.GradientClipping ? _options.GradientClipping / (norm + 1e-6) : 1;
        return norm;
    }

    private unsafe double GradientNorm()
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        if (_blockSums is null)
            return Gradients.norm().ToDouble();
        double sum = AdamWKernel.SquareSum(TensorMemory.Floats(Gradients), Gradients.numel(), _blockSums);
        return sum > float.MaxValue ? double.PositiveInfinity : Math.Sqrt(sum); // Adam keeps squares in float32
    }
}

/// <summary>A gradient with a NaN or an infinity: the step was not taken.</summary>
internal sealed class NonFiniteGradientException(double norm) : InvalidOperationException(
    $"The gradient's norm is {norm}, so training cannot go on; no weight was changed by this step. " +
    "Lower the learning rate, lengthen the warm-up, or look for extreme values in the data.")
{
    public double Norm => norm;
}
