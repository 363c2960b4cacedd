using System.Numerics;
using System.Runtime.CompilerServices;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Training;

/// <summary>
/// Many token sequences of different lengths, one after another: two bytes a token while all ids are below 65,536, four from the first
/// larger one on, and four bytes a sequence.
/// </summary>
/// <param name="maximum">The most tokens; by default as many as an int can number.</param>
/// <param name="file">Where all but the last of them are kept; null keeps them in memory.</param>
internal sealed class TokenSequences(int maximum = int.MaxValue, TokenFile? file = null) : IFingerprinted
{
    private PagedList<ushort>? _narrow = new(file); // the tokens, until one does not fit
    private PagedList<int>? _wide;                  // the tokens from then on
    private readonly PagedList<int> _ends = new(file);

    public int Count => _ends.Count;

    /// <summary>Tokens of all sequences.</summary>
    public long TokenCount => _narrow?.Count ?? _wide!.Count;

    /// <summary>A sequence, as a copy: take it once, not once for each token.</summary>
    public ReadOnlySpan<int> this[int row]
    {
        get
        {
            var tokens = new int[Length(row)];
            CopyTo(Start(row), tokens);
            return tokens;
        }
    }

    public int Length(int row) => _ends[row] - Start(row);

    /// <summary>Reads the first tokens of a sequence.</summary>
    /// <param name="row">The sequence.</param>
    /// <param name="destination">As many as fit, at most the sequence's length.</param>
    public void CopyRow<T>(int row, Span<T> destination) where T : INumberBase<T> => CopyTo(Start(row), destination);

    /// <exception cref="InvalidOperationException">There would be too many tokens.</exception>
    public void Add(params ReadOnlySpan<int> tokens)
    {
        if (TokenCount + tokens.Length > maximum)
            throw new InvalidOperationException(
                $"The data has more than {maximum} tokens, which is all that one run can hold. Train on a part of it, such as " +
                "ml.Data.TakeRows(data, n), or on one part after another.");
        foreach (int token in tokens)
        {
            if (_narrow is not null && (uint)token <= ushort.MaxValue)
                _narrow.Add((ushort)token);
            else
                AddWide(token);
        }
        _ends.Add((int)TokenCount);
    }

    /// <summary>Reads tokens of one sequence after another, wherever they end.</summary>
    /// <param name="start">The place of the first, counted over all sequences.</param>
    /// <param name="destination">As many as fit.</param>
    public void CopyTo<T>(int start, Span<T> destination) where T : INumberBase<T>
    {
        if (_narrow is not null)
            Copy(_narrow, start, destination);
        else
            Copy(_wide!, start, destination);
    }

    private static void Copy<TFrom, TTo>(PagedList<TFrom> from, int start, Span<TTo> to)
        where TFrom : unmanaged, INumberBase<TFrom>
        where TTo : INumberBase<TTo>
    {
        Span<TFrom> buffer = stackalloc TFrom[512];
        while (!to.IsEmpty)
        {
            var part = buffer[..Math.Min(to.Length, buffer.Length)];
            from.Read(start, part);
            for (int i = 0; i < part.Length; i++)
                to[i] = TTo.CreateTruncating(part[i]);
            start += part.Length;
            to = to[part.Length..];
        }
    }

    private void AddWide(int token)
    {
        if (_wide is null)
        {
            _wide = new(file);
            for (int i = 0; i < _narrow!.Count; i++)
                _wide.Add(_narrow[i]);
            _narrow = null;
        }
        _wide.Add(token);
    }

    public void AddTo(Fingerprint fingerprint)
    {
        fingerprint.Add(Count);
        for (int row = 0; row < Count; row++)
            fingerprint.Add(this[row]);
    }

    private int Start(int row) => row == 0 ? 0 : _ends[row - 1];
}

/// <summary>
/// A list that grows by pages: what is in it is not copied each time that it doubles, and at most a page lies empty. The first page
/// begins small.
/// </summary>
/// <param name="file">Where full pages go; null keeps them in memory.</param>
internal sealed class PagedList<T>(TokenFile? file = null) where T : unmanaged
{
    private const int PageBits = 20;
    private const int PageSize = 1 << PageBits;

    private readonly List<T[]> _full = [];     // pages in memory
    private readonly List<long> _written = []; // the places of pages in the file
    private T[] _last = [];
    private int _used; // of the last page

    public int Count => (FullPages << PageBits) + _used;

    public T this[int index]
    {
        get
        {
            var item = default(T);
            Read(index, new Span<T>(ref item));
            return item;
        }
    }

    private int FullPages => file is null ? _full.Count : _written.Count;

    public void Add(T item)
    {
        if (_used == _last.Length)
            Grow();
        _last[_used++] = item;
    }

    public T[] ToArray()
    {
        var items = new T[Count];
        Read(0, items);
        return items;
    }

    /// <summary>Copies items from a place on.</summary>
    public void Read(int start, Span<T> destination)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan((long)start + destination.Length, Count);
        while (!destination.IsEmpty)
        {
            int page = start >> PageBits, place = start & (PageSize - 1);
            var part = destination[..Math.Min(destination.Length, PageSize - place)];
            if (page < FullPages && file is not null)
                file.Read(_written[page] + (long)place * Unsafe.SizeOf<T>(), part);
            else
                (page < FullPages ? _full[page] : _last).AsSpan(place, part.Length).CopyTo(part);
            start += part.Length;
            destination = destination[part.Length..];
        }
    }

    private void Grow()
    {
        if (_used < PageSize)
        {
            Array.Resize(ref _last, Math.Max(16, 2 * _used));
            return;
        }
        if (file is not null)
            _written.Add(file.Append<T>(_last));
        else
        {
            _full.Add(_last);
            _last = new T[PageSize];
        }
        _used = 0;
    }
}

/// <summary>Prompts with a completion each.</summary>
/// <param name="Sequences">Prompt, completion and end token of each row, in one sequence.</param>
/// <param name="PromptLengths">How many tokens of each sequence belong to its prompt; at least 1.</param>
internal sealed record CompletionData(TokenSequences Sequences, int[] PromptLengths) : IFingerprinted
{
    /// <summary>
    /// Which tokens of each sequence are learned, where these are not all that follow the prompt: of a conversation, those that the
    /// assistant wrote. Null: all.
    /// </summary>
    public IReadOnlyList<bool[]>? Learned { get; init; }

    public int Count => Sequences.Count;

    public void AddTo(Fingerprint fingerprint)
    {
        Sequences.AddTo(fingerprint);
        fingerprint.Add<int>(PromptLengths);
        foreach (bool[] row in Learned ?? [])
            fingerprint.Add<bool>(row);
    }

    /// <summary>The places of a row's tokens that are labels; the state of the token before predicts each.</summary>
    public IEnumerable<int> Labels(int row, bool promptsToo)
    {
        for (int t = FirstLabel(row, promptsToo); t < Sequences.Length(row); t++)
        {
            if (IsLabel(row, t, promptsToo))
                yield return t;
        }
    }

    /// <summary>How many labels some rows have.</summary>
    public int LabelCount(ReadOnlySpan<int> rows, bool promptsToo)
    {
        int count = 0;
        foreach (int row in rows)
        {
            int first = FirstLabel(row, promptsToo);
            count += promptsToo || Learned is null ? Sequences.Length(row) - first : Learned[row].AsSpan(first).Count(true);
        }
        return count;
    }

    /// <summary>The first place of a row that may be a label.</summary>
    public int FirstLabel(int row, bool promptsToo) => promptsToo ? 1 : PromptLengths[row];

    /// <summary>Whether a place that is not before <see cref="FirstLabel"/> is a label.</summary>
    public bool IsLabel(int row, int place, bool promptsToo) => promptsToo || Learned is null || Learned[row][place];
}

/// <summary>Pairs of answers to the same prompt, of which people preferred one. Row i of both sides belongs to the same pair.</summary>
/// <param name="Chosen">The preferred answers.</param>
/// <param name="Rejected">The other answers.</param>
internal sealed record PreferenceData(CompletionData Chosen, CompletionData Rejected) : IFingerprinted
{
    public int Count => Chosen.Count;

    /// <summary>What both answers of a pair take where each is as long as the longer one.</summary>
    public int PaddedTokenCount(int row) => 2 * Math.Max(Chosen.Sequences.Length(row), Rejected.Sequences.Length(row));

    public void AddTo(Fingerprint fingerprint)
    {
        Chosen.AddTo(fingerprint);
        Rejected.AddTo(fingerprint);
    }
}

/// <summary>Texts of two kinds, of which one is to be made from the other. Row i of both sides belongs together.</summary>
/// <param name="Sources">Prompts, each with the end token: none is empty.</param>
/// <param name="Targets">Completions, each with the end token unless it was cut; none is empty.</param>
/// <param name="EndToken">What ends a text, and stands before the first token of a target where a decoder reads it.</param>
internal sealed record SequencePairs(TokenSequences Sources, TokenSequences Targets, int EndToken) : IFingerprinted
{
    public int Count => Sources.Count;

    public void AddTo(Fingerprint fingerprint)
    {
        Sources.AddTo(fingerprint);
        Targets.AddTo(fingerprint);
    }

    /// <summary>Tokens of both sides.</summary>
    public int Length(int row) => Sources.Length(row) + Targets.Length(row);

}

/// <summary>
/// Some sequences as one tensor, padded on the right. With causal attention no real token ever sees the padding, so no mask is needed.
/// </summary>
/// <param name="Ids">int64 (B, T); padding is 0, a valid id that nothing reads.</param>
/// <param name="Lengths">Real tokens of each row.</param>
internal sealed record PaddedBatch(Tensor Ids, int[] Lengths)
{
    /// <summary>Index of each row's last real token, int64 (B, 1).</summary>
    public Tensor LastPositions => tensor(Lengths.Select(length => length - 1L).ToArray(), device: Ids.device).unsqueeze(-1);

    /// <summary>
    /// What hides the padding where attention looks in both directions: additive, float32 (B, 1, 1, T), −∞ at padding and 0 elsewhere; null
    /// without padding.
    /// </summary>
    public Tensor? PaddingMask()
    {
        if (Lengths.All(length => length == Ids.shape[1]))
            return null;
        using var scope = NewDisposeScope();
        var places = arange(Ids.shape[1], device: Ids.device);                                // (T)
        var padding = places >= tensor(Lengths, dtype: int64, device: Ids.device).unsqueeze(-1); // (B, T)
        return zeros([Ids.shape[0], 1, 1, Ids.shape[1]], device: Ids.device)
            .masked_fill(padding.unsqueeze(1).unsqueeze(1), double.NegativeInfinity).MoveToOuterDisposeScope();
    }

    /// <summary>The numbers of a row, without its padding, in the CPU's memory.</summary>
    public Span<long> Row(int row) => Ids.Numbers().Slice(row * (int)Ids.size(1), Lengths[row]);

    /// <summary>Some of many sequences.</summary>
    public static PaddedBatch Create(TokenSequences sequences, int[] rows, Device device) => OnCpu(sequences, rows).On(device);

    /// <summary>Sequences that are there already.</summary>
    public static PaddedBatch Create(IReadOnlyList<int[]> sequences, Device device)
    {
        var batch = Empty([.. sequences.Select(sequence => sequence.Length)]);
        for (int i = 0; i < sequences.Count; i++)
            Widen(sequences[i], batch.Row(i));
        return batch.On(device);
    }

    /// <summary>Some of many sequences, in the CPU's memory.</summary>
    public static PaddedBatch OnCpu(TokenSequences sequences, int[] rows)
    {
        var batch = Empty(Array.ConvertAll(rows, sequences.Length));
        for (int i = 0; i < rows.Length; i++)
            sequences.CopyRow(rows[i], batch.Row(i));
        return batch;
    }

    /// <summary>Padding alone, in the CPU's memory.</summary>
    public static PaddedBatch Empty(int[] lengths) => new(TokenTensor.Zeros(lengths.Length, lengths.Max()), lengths);

    public PaddedBatch On(Device device) => this with { Ids = Ids.On(device) };

    private static void Widen(ReadOnlySpan<int> from, Span<long> to)
    {
        for (int i = 0; i < from.Length; i++)
            to[i] = from[i];
    }
}
