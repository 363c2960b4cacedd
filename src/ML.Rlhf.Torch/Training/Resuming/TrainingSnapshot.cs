using System.Text.Json.Nodes;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Training;

/// <summary>
/// A moment of a run to go back to, kept in memory. Its tensors are made once, and copied into each time. It is itself a part of the run:
/// after a resume, the run can go back just as far.
/// </summary>
internal sealed class TrainingSnapshot : IResumable, IDisposable
{
    private readonly IResumable[] _parts;
    private readonly Dictionary<string, Tensor> _tensors = [];
    private JsonObject _values = [];

    /// <summary>Keeps the moment that it is made in.</summary>
    public TrainingSnapshot(params IEnumerable<IResumable?> parts)
    {
        _parts = [.. parts.OfType<IResumable>()];
        Take();
    }

    /// <summary>Keeps this moment, and forgets the one before.</summary>
    public void Take()
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        _values = [];
        VisitParts(StateVisitor.Save(_values, (name, tensor) =>
        {
            if (!_tensors.TryGetValue(name, out var copy))
                _tensors[name] = copy = empty_like(tensor).DetachFromDisposeScope();
            copy.copy_(tensor);
        }));
    }

    /// <summary>Goes back to the moment that was kept: the same weights, bit for bit.</summary>
    public void Restore()
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        VisitParts(StateVisitor.Restore(_values, (name, tensor) => tensor.copy_(_tensors[name])));
    }

    public void Visit(StateVisitor state)
    {
        foreach (var (name, tensor) in _tensors)
            state.Tensor(name, tensor);
        state.Value("values", ref _values);
    }

    public void Dispose()
    {
        foreach (var tensor in _tensors.Values)
            tensor.Dispose();
    }

    private void VisitParts(StateVisitor state)
    {
        for (int i = 0; i < _parts.Length; i++)
            state.Part($"{i}", _parts[i]);
    }
}
