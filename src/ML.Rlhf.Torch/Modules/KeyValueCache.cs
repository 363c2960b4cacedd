using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Modules;

/// <summary>Keys and values of all layers of a transformer. Allocated once, filled from the left.</summary>
internal sealed class KeyValueCache : DecodingCache
{
    private readonly Tensor[] _keys, _values; // per layer (B, heads, capacity, numbers per head)

    public KeyValueCache(int layers, long rows, long heads, long capacity, long headWidth, Device device)
    {
        using var scope = NewDisposeScope(); // what was allocated before memory ran out must not stay
        Tensor[] Allocate() => [.. Enumerable.Range(0, layers).Select(_ => empty([rows, heads, capacity, headWidth], device: device))];
        _keys = Allocate();
        _values = Allocate();
        foreach (var tensor in _keys.Concat(_values))
            tensor.DetachFromDisposeScope();
    }

    /// <summary>Adds the keys and values of new tokens (B, heads, T, numbers per head) to a layer and gives all of them.</summary>
    public (Tensor Keys, Tensor Values) Append(int layer, Tensor keys, Tensor values)
    {
        long t = keys.size(2), capacity = _keys[layer].size(2);
        if (Length + t > capacity)
            throw new ArgumentException($"{Length + t} tokens do not fit the cache's capacity of {capacity}. Make a larger cache.");
        _keys[layer].narrow(2, Length, t).copy_(keys);
        _values[layer].narrow(2, Length, t).copy_(values);
        return (_keys[layer].narrow(2, 0, Length + t), _values[layer].narrow(2, 0, Length + t));
    }

    internal override void Keep(ReadOnlySpan<int> rows)
    {
        for (int layer = 0; layer < _keys.Length; layer++)
        {
            _keys[layer] = CacheRows.Keep(_keys[layer], rows, filled: Length);
            _values[layer] = CacheRows.Keep(_values[layer], rows, filled: Length);
        }
    }

    public override void Dispose()
    {
        foreach (var tensor in _keys.Concat(_values))
            tensor.Dispose();
    }
}
