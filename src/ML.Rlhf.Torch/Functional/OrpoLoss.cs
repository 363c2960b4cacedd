using TorchSharp;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace ML.Rlhf.Torch.Functional;

/// <summary>The preference part of odds-ratio preference optimisation (Hong et al. 2024, arXiv 2403.07691).</summary>
public static class OrpoLoss
{
    /// <summary>The nearest to certain that an answer may be: the odds of a probability of 1 are infinite.</summary>
    private const double MaximumLogProb = -1e-6;

    /// <summary>
    /// log (odds(chosen) / odds(rejected)), with odds = p/(1 − p) and p the geometric mean of an answer's token probabilities (eq. 4, 5).
    /// </summary>
    /// <param name="chosenMeanLogProbs">log p of the preferred answers (B): means over their tokens, at most 0.</param>
    /// <param name="rejectedMeanLogProbs">log p of the other answers (B).</param>
    /// <returns>(B).</returns>
    public static Tensor LogOddsRatio(Tensor chosenMeanLogProbs, Tensor rejectedMeanLogProbs)
    {
        using var scope = NewDisposeScope();
        return (LogOdds(chosenMeanLogProbs) - LogOdds(rejectedMeanLogProbs)).MoveToOuterDisposeScope();
    }

    /// <summary>−log σ(log odds ratio), eq. 7. The whole loss is the chosen answers' mean −log p per token + β times this.</summary>
    /// <param name="logOddsRatios">(B).</param>
    /// <returns>(B). ln 2 where both answers are equally likely.</returns>
    public static Tensor OddsRatio(Tensor logOddsRatios)
    {
        using var scope = NewDisposeScope();
        return (-functional.logsigmoid(logOddsRatios)).MoveToOuterDisposeScope();
    }

    /// <summary>log p − log(1 − p), where 1 − eˣ is computed as −expm1(x), which keeps its digits near x = 0.</summary>
    private static Tensor LogOdds(Tensor meanLogProbs)
    {
        var logProbs = meanLogProbs.clamp(max: MaximumLogProb);
        return logProbs - (-logProbs.expm1()).log();
    }
}
