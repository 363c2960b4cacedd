using System.Runtime.InteropServices;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Generation;

/// <summary>
/// An encoder–decoder that writes completions of prompts. The prompts are read once, padded on the right and masked; all completions begin
/// at the same place, so that those need no padding at all.
/// </summary>
internal sealed class EncoderDecoderTargets : INextToken
{
    private readonly EncoderDecoder _model;
    private readonly EncoderDecoderCache _cache;
    private readonly Device _device;
    private Tensor _ids; // the newest token of each row, int64 (B, 1), on the CPU

    /// <param name="model">In evaluation mode.</param>
    /// <param name="sources">At least one token each. Sources that are equal are read once.</param>
    /// <param name="start">What the decoder begins with.</param>
    /// <param name="newTokens">The most tokens of a completion.</param>
    public EncoderDecoderTargets(EncoderDecoder model, IReadOnlyList<int[]> sources, int start, int newTokens)
    {
        using var scope = NewDisposeScope();
        (_model, _device) = (model, model.Device);
        var shared = SharedPrompts.Of(sources);
        var batch = PaddedBatch.Create(shared.Distinct, _device);
        var mask = batch.PaddingMask();                                                       // (sources, 1, 1, S)
        _ids = full([sources.Count, 1], start, int64);
        _cache = new EncoderDecoderCache(model, model.Encode(batch.Ids, mask), mask, newTokens);
        if (shared.AreShared)
            _cache.Keep(shared.Places);
        _ids.DetachFromDisposeScope();
    }

    public Tensor Logits(ReadOnlySpan<int> drawn)
    {
        using var scope = NewDisposeScope();
        var ids = MemoryMarshal.Cast<byte, long>(_ids.bytes);
        for (int row = 0; row < drawn.Length; row++)
            ids[row] = drawn[row];
        var hidden = _model.DecodeNext(_ids.to(_device), _cache);                             // (B, 1, C)
        return _model.Logits(hidden.squeeze(1)).MoveToOuterDisposeScope();                    // (B, V)
    }

    public void Keep(ReadOnlySpan<int> rows)
    {
        _cache.Keep(rows);
        _ids = CacheRows.Keep(_ids, rows);
    }

    public void Dispose()
    {
        _cache.Dispose();
        _ids.Dispose();
    }
}
