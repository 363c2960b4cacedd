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
}
