namespace ML.Rlhf.Torch.Training;

/// <summary>Prompts with several answers each, some of which people ranked above others. A pair of answers is the case K = 2.</summary>
/// <param name="Answers">All answers; those of one prompt stand side by side.</param>
/// <param name="Starts">Index of each prompt's first answer, and the number of answers at the end: one more than prompts.</param>
/// <param name="Ranks">The place of each answer among those of its prompt: lower is better, equal is a tie.</param>
/// <param name="Weights">How much each prompt's loss counts; 1 is usual.</param>
/// <param name="Margins">By how much the better answers of each prompt should win; 0 is usual.</param>
internal sealed record RankingData(CompletionData Answers, int[] Starts, double[] Ranks, float[] Weights, float[] Margins) : IFingerprinted
{
    /// <summary>How many prompts.</summary>
    public int Count => Starts.Length - 1;

    public int AnswerCount(int prompt) => Starts[prompt + 1] - Starts[prompt];

    /// <summary>Indices of a prompt's answers.</summary>
    public IEnumerable<int> AnswersOf(int prompt) => Enumerable.Range(Starts[prompt], AnswerCount(prompt));

    /// <summary>The tokens of a prompt.</summary>
    public int[] Prompt(int prompt) => Answers.Sequences[Starts[prompt]][..Answers.PromptLengths[Starts[prompt]]].ToArray();

    public void AddTo(Fingerprint fingerprint)
    {
        Answers.AddTo(fingerprint);
        fingerprint.Add<int>(Starts);
        fingerprint.Add<double>(Ranks);
        fingerprint.Add<float>(Weights);
        fingerprint.Add<float>(Margins);
    }

    /// <summary>Tokens of all answers of a prompt, the prompt included in each.</summary>
    public int TokenCount(int prompt) => AnswersOf(prompt).Sum(Answers.Sequences.Length);

    /// <summary>What they take where each is as long as the longest.</summary>
    public int PaddedTokenCount(int prompt) => AnswerCount(prompt) * AnswersOf(prompt).Max(Answers.Sequences.Length);

    /// <summary>Indices of the answers of a prompt, two by two, of which the first was ranked above the second.</summary>
    public IEnumerable<(int Better, int Worse)> Pairs(int prompt) =>
        from better in AnswersOf(prompt)
        from worse in AnswersOf(prompt)
        where Beats(Answers.Sequences[better], Ranks[better], Answers.Sequences[worse], Ranks[worse])
        select (better, worse);

    /// <summary>Whether the first answer is ranked above the second and is another text: equal texts teach nothing.</summary>
    public static bool Beats(ReadOnlySpan<int> better, double betterRank, ReadOnlySpan<int> worse, double worseRank) =>
        betterRank < worseRank && !better.SequenceEqual(worse);

    /// <summary>Whether there is something to learn from the answers to a prompt.</summary>
    public static bool HasPair(int[][] answers, double[] ranks) =>
        answers.Where((better, i) => answers.Where((worse, j) => Beats(better, ranks[i], worse, ranks[j])).Any()).Any();
}
