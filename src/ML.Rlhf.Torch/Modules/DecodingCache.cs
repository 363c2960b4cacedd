namespace ML.Rlhf.Torch.Modules;

/// <summary>
/// What a model remembers of the tokens that it has read, so that the next token costs one position and not all of them. It belongs to
/// one generation: weights must not change while it is in use.
/// </summary>
public abstract class DecodingCache : IDisposable
{
    private protected DecodingCache() { }

    /// <summary>Tokens per row so far.</summary>
    public int Length { get; private set; }

    /// <summary>Counts new tokens in, once the whole model has them.</summary>
    internal virtual void Advance(int tokens) => Length += tokens;

    /// <summary>
    /// Keeps only the named rows, in that order: finished rows leave the batch. A row that is named several times is there several times
    /// from then on.
    /// </summary>
    internal abstract void Keep(ReadOnlySpan<int> rows);

    /// <summary>Frees the memory.</summary>
    public abstract void Dispose();
}
