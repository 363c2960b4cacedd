using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Modules;

/// <summary>What each layer of an LSTM gave last, and its memory. As large after a thousand tokens as after one.</summary>
internal sealed class LstmState : DecodingCache
{
    private readonly (Tensor Output, Tensor Memory)[] _layers; // (rows, width) each

    public LstmState(int layers, long rows, long width, Device device)
    {
        using var scope = NewDisposeScope(); // what was allocated before memory ran out must not stay
        Tensor Zeros() => zeros([rows, width], device: device);
        _layers = [.. Enumerable.Range(0, layers).Select(_ => (Zeros(), Zeros()))];
        foreach (var (output, memory) in _layers)
        {
            output.DetachFromDisposeScope();
            memory.DetachFromDisposeScope();
        }
    }

    public (Tensor Output, Tensor Memory) this[int layer] => _layers[layer];

    /// <summary>Takes the state of a layer after new tokens.</summary>
    public void Set(int layer, Tensor output, Tensor memory)
    {
        Free(layer);
        _layers[layer] = (output.alias().DetachFromDisposeScope(), memory.alias().DetachFromDisposeScope());
    }

    internal override void Keep(ReadOnlySpan<int> rows)
    {
        for (int layer = 0; layer < _layers.Length; layer++)
            _layers[layer] = (CacheRows.Copy(_layers[layer].Output, rows), CacheRows.Copy(_layers[layer].Memory, rows));
    }

    public override void Dispose()
    {
        for (int layer = 0; layer < _layers.Length; layer++)
            Free(layer);
    }

    private void Free(int layer)
    {
        _layers[layer].Output.Dispose();
        _layers[layer].Memory.Dispose();
    }
}
