namespace ML.Rlhf.Torch.Training;

/// <summary>A sequence in which some tokens were hidden.</summary>
/// <param name="Inputs">What the model sees, one token for each of the sequence.</param>
/// <param name="Positions">The chosen places, in rising order.</param>
/// <param name="Labels">The tokens that were there.</param>
internal sealed record MaskedSequence(int[] Inputs, int[] Positions, int[] Labels);

/// <summary>The vocabulary as masking sees it.</summary>
internal sealed class MaskingVocabulary
{
    private readonly bool[] _isSpecial;
    private readonly int[] _ordinary;

    /// <param name="size">Tokens of the vocabulary.</param>
    /// <param name="maskToken">The token that stands in the place of a hidden one.</param>
    /// <param name="specialTokens">Tokens that stand for no text: they are never hidden, and never drawn.</param>
    public MaskingVocabulary(int size, int maskToken, IEnumerable<int> specialTokens)
    {
        MaskToken = maskToken;
        _isSpecial = new bool[size];
        _isSpecial[maskToken] = true;
        foreach (int token in specialTokens)
            _isSpecial[token] = true;
        _ordinary = [.. Enumerable.Range(0, size).Where(token => !_isSpecial[token])];
    }

    public int MaskToken { get; }

    /// <summary>Whether a token may be hidden.</summary>
    public bool IsOrdinary(int token) => !_isSpecial[token];

    /// <summary>Any token that stands for text, each as likely as the others.</summary>
    public int Draw(ref RandomStream random) => _ordinary[random.NextInt32(_ordinary.Length)];
}

/// <summary>Hides tokens, so that a model can learn to guess them (Devlin et al. 2019, section 3.1).</summary>
internal static class TokenMasking
{
    private const float MaskedPart = 0.8f, RandomPart = 0.1f; // what remains is kept as it is

    /// <summary>
    /// Chooses max(1, round(rate · n)) of the n tokens that stand for text, all choices equally likely. Each of them becomes the mask token
    /// in 80 % of the cases, a random token in 10 %, and stays in 10 %: the model must have an opinion about tokens that it sees, too,
    /// for there are no masks in the texts that it is used on.
    /// </summary>
    /// <param name="tokens">The sequence.</param>
    /// <param name="vocabulary">What may be hidden, and what it is hidden by.</param>
    /// <param name="rate">In (0, 1].</param>
    /// <param name="random">The same state gives the same choice; it moves on.</param>
    /// <returns>The sequence with its choice, which is empty only where no token stands for text.</returns>
    public static MaskedSequence Mask(ReadOnlySpan<int> tokens, MaskingVocabulary vocabulary, double rate, ref RandomStream random)
    {
        int[] inputs = tokens.ToArray();
        int[] candidates = [.. Enumerable.Range(0, inputs.Length).Where(t => vocabulary.IsOrdinary(inputs[t]))];
        int count = Math.Min(candidates.Length, Math.Max(1, (int)Math.Round(rate * candidates.Length)));
        int[] positions = [.. random.Permutation(candidates.Length).Take(count).Select(i => candidates[i]).Order()];
        int[] labels = [.. positions.Select(t => inputs[t])];
        foreach (int t in positions)
        {
            float draw = random.NextSingle();
            if (draw < MaskedPart)
                inputs[t] = vocabulary.MaskToken;
            else if (draw < MaskedPart + RandomPart)
                inputs[t] = vocabulary.Draw(ref random);
        }
        return new MaskedSequence(inputs, positions, labels);
    }
}
