namespace ML.Rlhf;

/// <summary>A token, and which part of the piece it stands for.</summary>
internal readonly record struct Symbol(int Id, int Start, int End, bool IsMerged = false);

/// <summary>
/// What byte-pair encoding does to a piece, in time that hardly grows faster than the piece
/// (<see cref="Microsoft.ML.Tokenizers.BpeTokenizer"/> takes time that grows with its square).
/// </summary>
internal sealed class PairMerging
{
    private readonly Dictionary<(int Left, int Right), (int Rank, int Id)> _merges;

    /// <param name="ids">The id of each token.</param>
    /// <param name="merges">Two tokens with a space between them, the first merge first; all of them are in the vocabulary, and joined too.
    /// </param>
    public PairMerging(Dictionary<string, int> ids, string[] merges)
    {
        _merges = new(merges.Length);
        foreach (var (rank, merge) in merges.Index())
        {
            string[] parts = merge.Split(' ');
            _merges.Add((ids[parts[0]], ids[parts[1]]), (rank, ids[parts[0] + parts[1]]));
        }
    }

    /// <summary>Merges the pair learned first, and of equal ones the leftmost, until no neighbours can be merged.</summary>
    /// <param name="symbols">The tokens to begin with; changed.</param>
    /// <returns>Those that are left.</returns>
    public IEnumerable<Symbol> Merge(List<Symbol> symbols)
    {
        var next = new int[symbols.Count];
        var previous = new int[symbols.Count];
        var queue = new PriorityQueue<(int Place, int Id), (int Rank, int Place)>();
        for (int i = 0; i < symbols.Count; i++)
            (previous[i], next[i]) = (i - 1, i + 1);
        for (int i = 0; i + 1 < symbols.Count; i++)
            Enqueue(i);

        while (queue.TryDequeue(out var merge, out _))
        {
            int left = merge.Place, right = next[left];
            bool stillThere = !symbols[left].IsMerged && right < symbols.Count
                && _merges.TryGetValue((symbols[left].Id, symbols[right].Id), out var found) && found.Id == merge.Id;
            if (!stillThere)
                continue;
            symbols[left] = symbols[left] with { Id = merge.Id, End = symbols[right].End };
            symbols[right] = symbols[right] with { IsMerged = true };
            next[left] = next[right];
            if (next[left] < symbols.Count)
                previous[next[left]] = left;
            if (previous[left] >= 0)
                Enqueue(previous[left]);
            Enqueue(left);
        }
        return symbols.Where(symbol => !symbol.IsMerged);

        void Enqueue(int left)
        {
            if (next[left] < symbols.Count && _merges.TryGetValue((symbols[left].Id, symbols[next[left]].Id), out var merge))
                queue.Enqueue((left, merge.Id), (merge.Rank, left));
        }
    }
}
