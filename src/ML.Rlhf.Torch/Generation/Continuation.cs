using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Generation;

/// <summary>
/// A model that goes on with prompts. They are padded on the left, so that all rows grow on the right together; positions are counted
/// without padding, and what was read is kept, so that each new token costs one position.
/// </summary>
internal sealed class Continuation : INextToken
{
    private readonly CausalLanguageModel _model;
    private readonly IReadOnlyList<int[]> _prompts;
    private readonly DecodingCache _cache;
    private readonly int _capacity;
    private Tensor _positions; // of the newest token of each row in its own text, int64 (B, 1)
    private Tensor? _keyMask; // (B, 1, 1, capacity); null without padding

    /// <param name="model">In evaluation mode.</param>
    /// <param name="prompts">At least one token each.</param>
    /// <param name="newTokens">The most tokens that are added to a prompt.</param>
    public Continuation(CausalLanguageModel model, IReadOnlyList<int[]> prompts, int newTokens)
    {
        (_model, _prompts) = (model, prompts);
        _capacity = prompts.Max(p => p.Length) + newTokens;
        using var scope = NewDisposeScope();
        _positions = tensor(prompts.Select(p => p.Length - 1L).ToArray(), device: model.Device).unsqueeze(-1);
        _cache = model.CreateCache(prompts.Count, _capacity); // the last that may run out of memory: Dispose is not called then
        _positions.DetachFromDisposeScope();
    }

    public Tensor Logits(Tensor? drawn)
    {
        using var scope = NewDisposeScope();
        Tensor hidden;
        if (drawn is null)
        {
            var (ids, positions, mask, keyMask) = LeftPad(_prompts, _prompts.Max(p => p.Length), _capacity, _model.Device);
            _keyMask = keyMask?.DetachFromDisposeScope();
            hidden = _model.Hidden(ids, positions, mask, _cache);                             // (B, T, C)
        }
        else
        {
            Replace(ref _positions, _positions + 1);
            var mask = _keyMask?.narrow(-1, 0, _cache.Length + 1);                            // (B, 1, 1, keys)
            hidden = _model.Hidden(drawn.unsqueeze(-1), _positions, mask, _cache);            // (B, 1, C)
        }
        return _model.Logits(hidden.select(1, -1)).MoveToOuterDisposeScope();        // (B, V)
    }

    public void Keep(Tensor rows)
    {
        using var scope = NewDisposeScope();
        _cache.Keep(rows);
        Replace(ref _positions, _positions.index_select(0, rows));
        if (_keyMask is not null)
            Replace(ref _keyMask, _keyMask.index_select(0, rows));
    }

    public void Dispose()
    {
        _cache.Dispose();
        _positions.Dispose();
        _keyMask?.Dispose();
    }

    private static void Replace(ref Tensor old, Tensor value)
    {
        old.Dispose();
        old = value.DetachFromDisposeScope();
    }

    /// <summary>
    /// Ids (B, T), positions (B, T), attention mask (B, 1, T, T) and key mask for later steps (B, 1, 1, capacity); no masks without
    /// padding.
    /// </summary>
    private static (Tensor Ids, Tensor Positions, Tensor? Mask, Tensor? KeyMask) LeftPad(
        IReadOnlyList<int[]> prompts, int longest, int capacity, Device device)
    {
        var ids = new long[prompts.Count * longest];
        var positions = new long[prompts.Count * longest];
        var hidden = new bool[prompts.Count * capacity];
        for (int row = 0; row < prompts.Count; row++)
        {
            int padding = longest - prompts[row].Length;
            hidden.AsSpan(row * capacity, padding).Fill(true);
            for (int t = 0; t < prompts[row].Length; t++)
            {
                ids[row * longest + padding + t] = prompts[row][t];
                positions[row * longest + padding + t] = t;
            }
        }
        var idsTensor = tensor(ids, [prompts.Count, longest], device: device);
        var positionsTensor = tensor(positions, [prompts.Count, longest], device: device);
        if (prompts.All(p => p.Length == longest))
            return (idsTensor, positionsTensor, null, null);

        var hiddenKeys = tensor(hidden, [prompts.Count, 1, 1, capacity], device: device);
        var keyMask = zeros([prompts.Count, 1, 1, capacity], device: device).masked_fill(hiddenKeys, double.NegativeInfinity);
        var future = ones([longest, longest], dtype: @bool, device: device).triu(1);
        // A padding token attends to itself: a row of −∞ alone would be NaN.
        var self = eye(longest, dtype: @bool, device: device);
        var blocked = (hiddenKeys.narrow(-1, 0, longest) | future) & ~self;                   // (B, 1, T, T)
        var mask = zeros([prompts.Count, 1, longest, longest], device: device).masked_fill(blocked, double.NegativeInfinity);
        return (idsTensor, positionsTensor, mask, keyMask);
    }
}
