using System.Xml.Linq;
using ML.Rlhf.Charts;

namespace ML.Rlhf;

/// <summary>
/// How well a reward model agrees with people, over pairs of answers: K ranked answers are up to K·(K − 1)/2 pairs, those of different
/// rank and text. In a notebook it shows itself as numbers and a calibration curve.
/// </summary>
[TypeFormatterSource(typeof(HtmlFormatterSource))]
public sealed record RewardModelMetrics : IHtmlDisplay
{
    /// <summary>Prompts with at least one pair.</summary>
    public required int PromptCount { get; init; }

    /// <summary>Pairs measured: those of different answers of which people preferred one.</summary>
    public required int PairCount { get; init; }

    /// <summary>Part of the pairs in which the better answer scored higher; half of each tie. 0.5 is guessing.</summary>
    public required double Accuracy { get; init; }

    /// <summary>Pairs whose answers scored exactly the same.</summary>
    public required int TieCount { get; init; }

    /// <summary>
    /// <see cref="Accuracy"/> of the better of two rules that know only the answers' lengths in tokens: "longer wins" and "shorter wins".
    /// A reward model that does not beat it has learned length.
    /// </summary>
    public required double LengthBaselineAccuracy { get; init; }

    /// <summary>Mean score of the chosen answers, or of the better ones of all pairs.</summary>
    public required double MeanChosenScore { get; init; }

    /// <summary>Mean score of the rejected answers, or of the worse ones of all pairs.</summary>
    public required double MeanRejectedScore { get; init; }

    /// <summary>
    /// Mean −ln σ(Δ), Δ being the difference of the scores before normalisation, in nats per pair. 0 is perfect; ln 2 = 0.693 is knowing
    /// nothing; more is being sure of what is wrong.
    /// </summary>
    public required double Loss { get; init; }

    /// <summary>
    /// Whether the model is as often right as it says: 10 bins of equal width of the probability σ(|Δ|), from 0.5 to 1, that the higher
    /// score wins. Bins without pairs are left out. A model is calibrated where Predicted = Observed.
    /// </summary>
    public required IReadOnlyList<CalibrationBin> Calibration { get; init; }

    /// <summary>
    /// Mean |Predicted − Observed| over the pairs of <see cref="Calibration"/>, from 0 to 1 (Naeini et al. 2015). Of n pairs that are
    /// perfectly calibrated it is not 0, but about 1/√n.
    /// </summary>
    public required double ExpectedCalibrationError { get; init; }

    /// <summary>
    /// Accuracy by what the weight column says of the label, such as how sure the labeler was, from low to high: a group for each of at
    /// most 10 different values, else 10 groups of about the same size. Empty where no weight column was named.
    /// </summary>
    public required IReadOnlyList<ConfidenceBin> ByConfidence { get; init; }

    /// <summary>
    /// Pearson's correlation of an answer's score with its length in tokens, over all answers; NaN where all scores or all lengths are the
    /// same.
    /// </summary>
    public required double LengthCorrelation { get; init; }

    /// <summary>The numbers that matter most, in a line.</summary>
    public override string ToString() => FormattableString.Invariant(
        $"{PairCount} pairs: accuracy {Accuracy:F3} (a rule of lengths: {LengthBaselineAccuracy:F3}), loss {Loss:F3}, ") +
        FormattableString.Invariant($"calibration error {ExpectedCalibrationError:F3}");

    /// <summary>The numbers and the calibration curve, as a piece of HTML that needs no other file.</summary>
    public string ToHtml() => Html.Render(Html.Element("div", Content()));

    /// <summary>The same for a page that has others.</summary>
    internal IEnumerable<XElement> Content() =>
    [
        RunReport.Facts(
            ("pairs", Html.Number(PairCount)), ("accuracy", Html.Number(Accuracy)),
            ("accuracy of a rule of lengths", Html.Number(LengthBaselineAccuracy)), ("loss, nats", Html.Number(Loss)),
            ("calibration error", Html.Number(ExpectedCalibrationError)), ("score of the chosen", Html.Number(MeanChosenScore)),
            ("score of the rejected", Html.Number(MeanRejectedScore)), ("correlation with length", Html.Number(LengthCorrelation))),
        Html.Element("div", new XAttribute("class", "charts"), CalibrationChart.Draw(Calibration)),
    ];
}

/// <summary>Pairs for which a reward model predicts about the same.</summary>
/// <param name="From">Least predicted probability that the higher score wins.</param>
/// <param name="To">Where the next bin begins.</param>
/// <param name="PairCount">Pairs of this bin; at least 1.</param>
/// <param name="Predicted">Mean predicted probability.</param>
/// <param name="Observed">Part of the pairs in which the higher score did win; half of each tie.</param>
public sealed record CalibrationBin(double From, double To, int PairCount, double Predicted, double Observed);

/// <summary>Pairs of which the labelers were about as sure.</summary>
/// <param name="From">Least confidence.</param>
/// <param name="To">Greatest confidence.</param>
/// <param name="PairCount">Pairs of this bin; at least 1.</param>
/// <param name="Accuracy">Part of these pairs in which the better answer scored higher; half of each tie.</param>
public sealed record ConfidenceBin(double From, double To, int PairCount, double Accuracy);
