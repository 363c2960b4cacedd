namespace ML.Rlhf.Torch.Training;

/// <summary>Reads a sequence at growing places: a step, however many steps came before it in another process, gets its own rows.</summary>
internal sealed class ForwardReader<T>(IEnumerable<T> sequence)
{
    private readonly IEnumerator<T> _sequence = sequence.GetEnumerator();
    private long _place = -1;

    /// <param name="place">From 0, and not before the one that was read last.</param>
    public T At(long place)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(place, _place);
        for (; _place < place; _place++)
            _sequence.MoveNext();
        return _sequence.Current;
    }
}

/// <summary>In which order rows are trained on.</summary>
internal static class Batches
{
    /// <summary>Rows in a fresh random order each epoch, in batches; the last batch of an epoch may be smaller.</summary>
    public static IEnumerable<int[]> Shuffled(int rows, int batchSize, int epochs, RandomStream random)
    {
        for (int epoch = 0; epoch < epochs; epoch++)
        {
            foreach (int[] batch in random.Permutation(rows).Chunk(batchSize))
                yield return batch;
        }
    }

    /// <summary>
    /// Batches of rows of similar length, in a random order: little padding, and fresh batches each epoch. Random pools of
    /// <see cref="PoolBatches"/> batches are sorted, each for itself.
    /// </summary>
    public static IEnumerable<int[]> ShuffledByLength(int rows, int batchSize, int epochs, Func<int, int> length, RandomStream random)
    {
        for (int epoch = 0; epoch < epochs; epoch++)
        {
            int[][] batches = [.. random.Permutation(rows).Chunk(batchSize * PoolBatches)
                .SelectMany(pool => pool.OrderBy(length).Chunk(batchSize))];
            foreach (int i in random.Permutation(batches.Length))
                yield return batches[i];
        }
    }

    /// <summary>Enough that a batch has hardly two lengths, few enough that the same rows hardly meet again.</summary>
    private const int PoolBatches = 32;

    /// <summary>Rows from shortest to longest, in batches: little padding, for passes whose order does not matter.</summary>
    public static IEnumerable<int[]> ByLength(int rows, int batchSize, Func<int, int> length) =>
        Enumerable.Range(0, rows).OrderBy(length).Chunk(batchSize);

    /// <summary>
    /// The rows of a step in parts, one pass each, so that a part's rows have similar lengths. Gradients of the parts add up to that of the
    /// batch, so nothing changes but rounding and time: of a batch of texts of 20 to 256 tokens, half would be padding. Each pass has a cost
    /// of its own, so a batch of similar lengths, or a small one, stays whole and in its order.
    /// </summary>
    /// <param name="rows">The rows of the step.</param>
    /// <param name="atMost">The most rows of a pass; null for any number.</param>
    /// <param name="length">Tokens of a row, at least 1.</param>
    public static List<int[]> Passes(int[] rows, int? atMost, Func<int, int> length)
    {
        int[] sorted = [.. rows.OrderBy(length)], lengths = Array.ConvertAll(sorted, row => length(row));
        var starts = new int[rows.Length + 1];  // of the last pass over the first n rows, if these take as little time as can be
        var costs = new long[rows.Length + 1];  // that time
        for (int end = 1; end <= rows.Length; end++)
        {
            costs[end] = long.MaxValue;
            for (int start = Math.Max(0, end - (atMost ?? end)); start < end; start++)
            {
                long cost = costs[start] + PassTokens + (long)(end - start) * lengths[end - 1];
                if (cost < costs[end])
                    (costs[end], starts[end]) = (cost, start);
            }
        }
        if (starts[^1] == 0)
            return [rows];
        List<int[]> passes = [];
        for (int end = rows.Length; end > 0; end = starts[end])
            passes.Insert(0, sorted[starts[end]..end]);
        return passes;
    }

    /// <summary>What a pass costs beside its tokens, in tokens: its many small operations, and adding up the gradient of every weight.</summary>
    private const int PassTokens = 128;

    /// <summary>Rows in their order, in a number of parts whose sizes differ by at most one.</summary>
    /// <param name="rows">At least as many as parts.</param>
    /// <param name="parts">At least 1.</param>
    public static IEnumerable<int[]> Parts(int[] rows, int parts) =>
        Enumerable.Range(0, parts).Select(i => rows[(int)((long)rows.Length * i / parts)..(int)((long)rows.Length * (i + 1) / parts)]);

    /// <summary>
    /// The rows of each optimiser step of an update: several passes over all rows, each in a fresh random order and in a number of parts.
    /// </summary>
    public static List<int[]> Minibatches(int rows, int epochs, int parts, ref RandomStream random)
    {
        List<int[]> minibatches = [];
        for (int epoch = 0; epoch < epochs; epoch++)
            minibatches.AddRange(Parts(random.Permutation(rows), parts));
        return minibatches;
    }

    /// <summary>Batches per epoch.</summary>
    public static int Count(int rows, int batchSize) => (rows + batchSize - 1) / batchSize;
}
