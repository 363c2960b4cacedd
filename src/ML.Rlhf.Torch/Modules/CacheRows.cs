using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Modules;

/// <summary>The rows of the tensors that a cache is made of.</summary>
internal static class CacheRows
{
    /// <summary>
    /// Keeps only the named rows, in that order. Where each of them stays at its place or comes from behind those that are kept, only the
    /// rows that move are copied; otherwise all are.
    /// </summary>
    /// <param name="old">(rows, …), whose numbers nobody else has; disposed.</param>
    /// <param name="rows">Indices of rows.</param>
    /// <param name="filled">How many places of the third dimension hold anything; null for tensors that are full.</param>
    /// <returns>(kept rows, …), in no dispose scope.</returns>
    public static Tensor Keep(Tensor old, ReadOnlySpan<int> rows, long? filled = null)
    {
        using var scope = NewDisposeScope();
        var kept = FillsHoles(rows) && rows.Length <= old.size(0) ? MoveRows(old, rows, filled) : CopyRows(old, rows, filled);
        old.Dispose();
        return kept.DetachFromDisposeScope();
    }

    /// <summary>Copies the named rows out of a tensor whose numbers others may have, too.</summary>
    /// <inheritdoc cref="Keep"/>
    /// <param name="old">(rows, …); disposed.</param>
    /// <param name="rows">Indices of rows.</param>
    public static Tensor Copy(Tensor old, ReadOnlySpan<int> rows)
    {
        using var scope = NewDisposeScope();
        var kept = CopyRows(old, rows, filled: null);
        old.Dispose();
        return kept.DetachFromDisposeScope();
    }

    private static bool FillsHoles(ReadOnlySpan<int> rows)
    {
        for (int i = 0; i < rows.Length; i++)
        {
            if (rows[i] != i && rows[i] < rows.Length)
                return false;
        }
        return true;
    }

    private static Tensor MoveRows(Tensor old, ReadOnlySpan<int> rows, long? filled)
    {
        for (int i = 0; i < rows.Length; i++)
        {
            if (rows[i] != i)
                Filled(old.narrow(0, i, 1), filled).copy_(Filled(old.narrow(0, rows[i], 1), filled));
        }
        return old.narrow(0, 0, rows.Length);
    }

    private static Tensor CopyRows(Tensor old, ReadOnlySpan<int> rows, long? filled)
    {
        var index = tensor(rows.ToArray(), dtype: int64, device: old.device);
        if (filled is null)
            return old.index_select(0, index);
        var copy = empty([rows.Length, .. old.shape[1..]], dtype: old.dtype, device: old.device);
        Filled(copy, filled).copy_(Filled(old, filled).index_select(0, index));
        return copy;
    }

    private static Tensor Filled(Tensor rows, long? filled) => filled is { } places ? rows.narrow(2, 0, places) : rows;
}
