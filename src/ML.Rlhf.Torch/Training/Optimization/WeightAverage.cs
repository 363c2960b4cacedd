using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Training;

/// <summary>
/// An exponential moving average of weights (Ouyang et al. 2022, appendix C.4): average ← d·average + (1 − d)·weights, with
/// d = min(decay, (1 + t) / (10 + t)) after update t, from 0, so that a short run is not an average of its beginning.
/// </summary>
internal sealed class WeightAverage : IResumable, IDisposable
{
    private readonly Tensor _weights, _average;
    private readonly double _decay;
    private int _updates;

    /// <param name="weights">The flat buffer that is trained; its owner outlives this.</param>
    /// <param name="decay">In [0, 1).</param>
    public WeightAverage(Tensor weights, double decay)
    {
        using var noGrad = no_grad();
        _weights = weights;
        _average = weights.clone().DetachFromDisposeScope();
        _decay = decay;
    }

    public void Visit(StateVisitor state)
    {
        state.Tensor("values", _average);
        state.Value("updates", ref _updates);
    }

    /// <summary>Takes the weights of an update in.</summary>
    public void Update()
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        double decay = Math.Min(_decay, (1.0 + _updates) / (10.0 + _updates));
        _updates++;
        _average.mul_(decay).add_(_weights, alpha: 1 - decay);
    }

    /// <summary>Puts the average in the place of the weights.</summary>
    public void Apply()
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        _weights.copy_(_average);
    }

    /// <summary>Frees the average.</summary>
    public void Dispose() => _average.Dispose();
}
