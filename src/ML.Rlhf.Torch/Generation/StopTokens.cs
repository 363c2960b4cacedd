namespace ML.Rlhf.Torch.Generation;

/// <summary>The tokens after which a completion is over: the end of text, and in a conversation the end of a turn.</summary>
internal readonly record struct StopTokens(params int[] Ids)
{
    public static implicit operator StopTokens(int id) => new(id);

    public bool Contains(int token) => Array.IndexOf(Ids, token) >= 0;
}
