using System.Runtime.InteropServices;
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
    private readonly Device _device;
    private readonly SharedPrompts _prompts;
    private readonly DecodingCache _cache;
    private readonly int _capacity;
    private Tensor _ids, _positions; // the newest token of each row and its place in its own text, int64 (B, 1), on the CPU
    private Tensor? _keyMask; // (B, 1, 1, capacity); null without padding

    /// <param name="model">In evaluation mode.</param>
    /// <param name="prompts">At least one token each. Prompts that are equal are read once.</param>
    /// <param name="newTokens">The most tokens that are added to a prompt.</param>
    public Continuation(CausalLanguageModel model, IReadOnlyList<int[]> prompts, int newTokens)
    {
        (_model, _device, _prompts) = (model, model.Device, SharedPrompts.Of(prompts));
        _capacity = prompts.Max(p => p.Length) + newTokens;
        using var scope = NewDisposeScope();
        _ids = zeros([prompts.Count, 1], int64);
        _positions = tensor(prompts.Select(p => p.Length - 1L).ToArray()).unsqueeze(-1);
        _cache = model.CreateCache(_prompts.Distinct.Count, _capacity); // the last that may run out of memory: nobody calls Dispose then
        _ids.DetachFromDisposeScope();
        _positions.DetachFromDisposeScope();
    }

    public Tensor Logits(ReadOnlySpan<int> drawn)
    {
        using var scope = NewDisposeScope();
        return (drawn.IsEmpty ? Read() : Next(drawn)).MoveToOuterDisposeScope();              // (B, V)
    }

    /// <summary>Reads each prompt, and makes as many copies of what is remembered of it as it has completions.</summary>
    private Tensor Read()
    {
        var (ids, positions, mask, keyMask) = LeftPad(_prompts.Distinct, _prompts.Distinct.Max(p => p.Length), _capacity, _device);
        _keyMask = keyMask?.DetachFromDisposeScope();
        var hidden = _model.Hidden(ids, positions, mask, _cache);                             // (prompts, T, C)
        var logits = _model.Logits(hidden.select(1, -1));                                     // (prompts, V)
        if (!_prompts.AreShared)
            return logits;
        _cache.Keep(_prompts.Places);
        _keyMask = _keyMask is null ? null : CacheRows.Keep(_keyMask, _prompts.Places);
        return logits.index_select(0, tensor(_prompts.Places, dtype: int64, device: _device));
    }

    private Tensor Next(ReadOnlySpan<int> drawn)
    {
        var ids = MemoryMarshal.Cast<byte, long>(_ids.bytes);
        var positions = MemoryMarshal.Cast<byte, long>(_positions.bytes);
        for (int row = 0; row < drawn.Length; row++)
        {
            ids[row] = drawn[row];
            positions[row]++;
        }
        var mask = _keyMask?.narrow(-1, 0, _cache.Length + 1);                                // (B, 1, 1, keys)
        var hidden = _model.Hidden(_ids.to(_device), _positions.to(_device), mask, _cache);   // (B, 1, C)
        return _model.Logits(hidden.select(1, -1));
    }

    public void Keep(ReadOnlySpan<int> rows)
    {
        _cache.Keep(rows);
        _ids = CacheRows.Keep(_ids, rows);
        _positions = CacheRows.Keep(_positions, rows);
        _keyMask = _keyMask is null ? null : CacheRows.Keep(_keyMask, rows);
    }

    public void Dispose()
    {
        _cache.Dispose();
        _ids.Dispose();
        _positions.Dispose();
        _keyMask?.Dispose();
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
