using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Training;

/// <summary>
/// A moment of a run to go back to: the weights, their average, the optimisers' memory, and β. Its tensors are made once, and copied
/// into each time.
/// </summary>
internal sealed class TrainingSnapshot : IDisposable
{
    private readonly AdamW[] _optimizers;
    private readonly AdamWState[] _states;
    private readonly WeightAverage? _average;
    private readonly KlController? _kl;
    private readonly Tensor? _averageValues;
    private int _averageUpdates;
    private double _klCoefficient;

    /// <summary>Keeps the moment that it is made in.</summary>
    public TrainingSnapshot(WeightAverage? average, KlController? kl, params AdamW[] optimizers)
    {
        _optimizers = optimizers;
        _states = [.. optimizers.Select(o => o.NewState())];
        _average = average;
        _kl = kl;
        _averageValues = average is null ? null : empty_like(average.Values).DetachFromDisposeScope();
        Take();
    }

    /// <summary>Keeps this moment, and forgets the one before.</summary>
    public void Take()
    {
        for (int i = 0; i < _states.Length; i++)
            _optimizers[i].Snapshot(_states[i]);
        _klCoefficient = _kl?.Coefficient ?? 0;
        if (_average is null)
            return;
        Copy(_average.Values, _averageValues!);
        _averageUpdates = _average.Updates;
    }

    /// <summary>Goes back to the moment that was kept: the same weights, bit for bit.</summary>
    public void Restore()
    {
        for (int i = 0; i < _states.Length; i++)
            _optimizers[i].Restore(_states[i]);
        if (_kl is not null)
            _kl.Coefficient = _klCoefficient;
        if (_average is null)
            return;
        Copy(_averageValues!, _average.Values);
        _average.Updates = _averageUpdates;
    }

    public void Dispose()
    {
        foreach (var state in _states)
            state.Dispose();
        _averageValues?.Dispose();
    }

    private static void Copy(Tensor from, Tensor to)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        to.copy_(from);
    }
}

/// <summary>A copy of what <see cref="AdamW"/> changes: the parameters and its memory of their gradients.</summary>
internal sealed class AdamWState(Tensor values, Tensor mean, Tensor square) : IDisposable
{
    public Tensor Values => values;

    public Tensor Mean => mean;

    public Tensor Square => square;

    /// <summary>Steps taken.</summary>
    public int Step { get; set; }

    public void Dispose()
    {
        values.Dispose();
        mean.Dispose();
        square.Dispose();
    }
}
