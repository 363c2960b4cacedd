namespace ML.Rlhf.Torch.Functional;

/// <summary>What is known about taking the best of n answers without training.</summary>
public static class BestOfN
{
    /// <summary>
    /// ln n − (n − 1)/n: how far the best of n answers diverges from the model that they were drawn from (Stiennon et al. 2020, arXiv
    /// 2009.01325, appendix G.3). Exact where no two answers can have the same score, otherwise an upper bound (Beirami et al. 2024, arXiv
    /// 2401.01879).
    /// </summary>
    /// <param name="n">Answers per prompt, at least 1.</param>
    /// <returns>KL(best of n ‖ model) of a whole answer, in nats; 0 for n = 1.</returns>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="n"/> is below 1.</exception>
    public static double KlBound(int n)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(n, 1);
        return Math.Log(n) - (n - 1.0) / n;
    }

    /// <summary>
    /// The mean value of the answer that scores best among n, over all subsets of n of N answers, without making them: the i-th lowest
    /// score is the best of C(i − 1, n − 1) of the C(N, n) subsets, so that
    /// Σ_i C(i − 1, n − 1)/C(N, n)·v_(i) is an unbiased estimate for best-of-n (Nakano et al. 2021, arXiv 2112.09332; Hilton and Gao 2022,
    /// "Measuring Goodhart's law"). Answers with equal scores are taken equally often.
    /// </summary>
    /// <param name="scores">What the best is chosen by: the proxy.</param>
    /// <param name="values">
    /// What the chosen one is worth, in the order of the scores. The scores themselves give the proxy's own mean.
    /// </param>
    /// <param name="n">From 1, the mean of all values, to N, the value of the best.</param>
    /// <exception cref="ArgumentException">There are not as many values as scores, or n is out of its range.</exception>
    internal static double Expectation(IReadOnlyList<double> scores, IReadOnlyList<double> values, int n)
    {
        if (scores.Count != values.Count)
            throw new ArgumentException($"There are {scores.Count} scores, but {values.Count} values; each answer needs both.");
        if (n < 1 || n > scores.Count)
            throw new ArgumentException($"n is {n}, but must be at least 1 and at most the number of answers, {scores.Count}.", nameof(n));
        double mean = 0, weight = n / (double)scores.Count; // that of the best: C(N − 1, n − 1)/C(N, n)
        int rank = scores.Count;
        foreach (var tied in Enumerable.Range(0, scores.Count).GroupBy(i => scores[i]).OrderByDescending(group => group.Key))
        {
            double tiedValue = tied.Average(i => values[i]);
            foreach (int _ in tied)
            {
                mean += weight * tiedValue;
                rank--;
                weight *= rank == 0 ? 0 : (rank + 1 - n) / (double)rank; // C(i − 2, n − 1)/C(i − 1, n − 1) = (i − n)/(i − 1)
            }
        }
        return mean;
    }
}
