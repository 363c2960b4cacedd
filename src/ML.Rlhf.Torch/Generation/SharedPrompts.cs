using System.Runtime.InteropServices;

namespace ML.Rlhf.Torch.Generation;

/// <summary>The prompts of a batch without repetition: several completions of one prompt read it once.</summary>
/// <param name="Distinct">Each prompt once, in the order in which they come first.</param>
/// <param name="Places">For each row of the batch, where its prompt stands among them.</param>
internal sealed record SharedPrompts(IReadOnlyList<int[]> Distinct, int[] Places)
{
    public static SharedPrompts Of(IReadOnlyList<int[]> prompts)
    {
        var known = new Dictionary<int[], int>(prompts.Count, new SameTokens());
        List<int[]> distinct = [];
        var places = new int[prompts.Count];
        for (int row = 0; row < places.Length; row++)
        {
            if (!known.TryGetValue(prompts[row], out places[row]))
            {
                known.Add(prompts[row], places[row] = distinct.Count);
                distinct.Add(prompts[row]);
            }
        }
        return new SharedPrompts(distinct, places);
    }

    /// <summary>Whether any prompt is there more than once.</summary>
    public bool AreShared => Distinct.Count < Places.Length;

    private sealed class SameTokens : IEqualityComparer<int[]>
    {
        public bool Equals(int[]? x, int[]? y) => x.AsSpan().SequenceEqual(y);

        public int GetHashCode(int[] tokens)
        {
            var hash = new HashCode();
            hash.AddBytes(MemoryMarshal.AsBytes(tokens.AsSpan()));
            return hash.ToHashCode();
        }
    }
}
