using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Training;

/// <summary>What keeps rows that share a sequence apart.</summary>
/// <param name="Positions">Position of each token in its own row, int64 (B, T).</param>
/// <param name="Mask">0 where a token may look, −∞ elsewhere, (B, 1, T, T): back, and within its row.</param>
internal sealed record PackedLayout(Tensor Positions, Tensor Mask);

/// <summary>
/// Several demonstrations in one sequence, where padding would stand otherwise. Attention stays inside each row and positions begin anew,
/// so that the loss is that of the rows alone.
/// </summary>
internal static class PackedBatch
{
    /// <summary>
    /// Rows as ids (B, T), their layout, the positions among the B·T whose next token is to be learned (N), and those tokens (N).
    /// </summary>
    public static (Tensor Ids, PackedLayout Layout, Tensor LabelPositions, Tensor Labels) Create(
        CompletionData data, int[] rows, int context, Device device, bool promptsToo)
    {
        var sequences = Pack(rows, data.Sequences.Length, context);
        int width = sequences.Max(sequence => sequence.Sum(data.Sequences.Length));
        long[] ids = new long[sequences.Count * width], positions = new long[ids.Length], owners = new long[ids.Length];
        List<long> labelPositions = [], labels = [];
        for (int s = 0; s < sequences.Count; s++)
        {
            int start = s * width;
            foreach (int row in sequences[s])
            {
                var tokens = data.Sequences[row];
                for (int t = 0; t < tokens.Length; t++)
                    (ids[start + t], positions[start + t], owners[start + t]) = (tokens[t], t, row + 1); // 0 owns the padding
                foreach (int t in data.Labels(row, promptsToo))
                {
                    labelPositions.Add(start + t - 1); // the state that predicts token t
                    labels.Add(tokens[t]);
                }
                start += tokens.Length;
            }
        }
        long[] shape = [sequences.Count, width];
        return (
            tensor(ids, shape, device: device),
            new PackedLayout(tensor(positions, shape, device: device), Mask(tensor(owners, shape, device: device))),
            tensor(labelPositions, device: device), tensor(labels, device: device));
    }

    /// <summary>Rows in sequences of at most the context's length: the longest first, each into the first sequence with room.</summary>
    internal static List<List<int>> Pack(int[] rows, Func<int, int> length, int context)
    {
        List<List<int>> sequences = [];
        List<int> used = [];
        foreach (int row in rows.OrderByDescending(length))
        {
            int place = used.FindIndex(tokens => tokens + length(row) <= context);
            if (place < 0)
            {
                place = sequences.Count;
                sequences.Add([]);
                used.Add(0);
            }
            sequences[place].Add(row);
            used[place] += length(row);
        }
        return sequences;
    }

    /// <param name="owners">The row that each token belongs to, int64 (B, T).</param>
    private static Tensor Mask(Tensor owners)
    {
        using var scope = NewDisposeScope();
        long width = owners.shape[1];
        var others = owners.unsqueeze(1) != owners.unsqueeze(2);                              // (B, T, T)
        var future = ones([width, width], dtype: @bool, device: owners.device).triu(1);
        return zeros([owners.shape[0], 1, width, width], device: owners.device)
            .masked_fill((others | future).unsqueeze(1), double.NegativeInfinity).MoveToOuterDisposeScope();
    }
}
