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
    private readonly int _rows, _start;

    /// <param name="model">In evaluation mode.</param>
    /// <param name="sources">At least one token each.</param>
    /// <param name="start">What the decoder begins with.</param>
    /// <param name="newTokens">The most tokens of a completion.</param>
    public EncoderDecoderTargets(EncoderDecoder model, IReadOnlyList<int[]> sources, int start, int newTokens)
    {
        using var scope = NewDisposeScope();
        (_model, _rows, _start) = (model, sources.Count, start);
        var batch = PaddedBatch.Create(sources, model.Device);
        var mask = batch.PaddingMask();                                                       // (B, 1, 1, S)
        _cache = new EncoderDecoderCache(model, model.Encode(batch.Ids, mask), mask, newTokens);
    }

    public Tensor Logits(Tensor? drawn)
    {
        using var scope = NewDisposeScope();
        var ids = drawn?.unsqueeze(-1) ?? full([_rows, 1], _start, int64, _model.Device);     // (B, 1)
        var hidden = _model.DecodeNext(ids, _cache);                                          // (B, 1, C)
        return _model.Logits(hidden.squeeze(1)).MoveToOuterDisposeScope();                    // (B, V)
    }

    public void Keep(Tensor rows) => _cache.Keep(rows);

    public void Dispose() => _cache.Dispose();
}
