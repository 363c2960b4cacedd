using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Modules;

/// <summary>
/// Keys and values of the tokens that a GPT has read, so that the next token costs one position and not all of them.
/// Allocated once, filled from the left. It belongs to one generation: weights must not change while it is in use.
/// </summary>
public sealed class KeyValueCache : IDisposable
{
    private readonly Tensor[] _keys, _values; // per layer (B, H, capacity, C/H)

    /// <summary>Allocates a cache.</summary>
    /// <param name="model">The model that will fill it.</param>
    /// <param name="rows">Rows in the batch.</param>
    /// <param name="capacity">The most tokens per row.</param>
    public KeyValueCache(Gpt model, int rows, int capacity)
    {
        var a = model.Architecture;
        Tensor Allocate() => empty([rows, a.Heads, capacity, a.Width / a.Heads], device: model.Device).DetachFromDisposeScope();
        _keys = [.. Enumerable.Range(0, a.Layers).Select(_ => Allocate())];
        _values = [.. Enumerable.Range(0, a.Layers).Select(_ => Allocate())];
    }

    /// <summary>Tokens per row so far.</summary>
    public int Length { get; private set; }

    /// <summary>Adds the keys and values of new tokens (B, H, T, C/H) to a layer and gives all of them.</summary>
    internal (Tensor Keys, Tensor Values) Append(int layer, Tensor keys, Tensor values)
    {
        long t = keys.shape[2], capacity = _keys[layer].shape[2];
        if (Length + t > capacity)
            throw new ArgumentException($"{Length + t} tokens do not fit the cache's capacity of {capacity}. Make a larger cache.");
        _keys[layer].narrow(2, Length, t).copy_(keys);
        _values[layer].narrow(2, Length, t).copy_(values);
        return (_keys[layer].narrow(2, 0, Length + t), _values[layer].narrow(2, 0, Length + t));
    }

    /// <summary>Counts the new tokens in, once every layer has them.</summary>
    internal void Advance(int tokens) => Length += tokens;

    /// <summary>Keeps only the named rows, in that order: finished rows leave the batch.</summary>
    /// <param name="rows">Row indices, int64 (kept).</param>
    internal void Keep(Tensor rows)
    {
        foreach (var store in (Tensor[][])[_keys, _values])
        {
            for (int layer = 0; layer < store.Length; layer++)
            {
                var kept = store[layer].index_select(0, rows).DetachFromDisposeScope();
                store[layer].Dispose();
                store[layer] = kept;
            }
        }
    }

    /// <summary>Frees the memory.</summary>
    public void Dispose()
    {
        foreach (var tensor in _keys.Concat(_values))
            tensor.Dispose();
    }
}
