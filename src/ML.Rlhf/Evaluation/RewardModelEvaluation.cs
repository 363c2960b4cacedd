using Microsoft.ML;
using Microsoft.ML.Runtime;
using ML.Rlhf.Bridge;
using ML.Rlhf.Torch.Training;

namespace ML.Rlhf;

/// <summary>Measures reward models on held-out preferences.</summary>
internal static class RewardModelEvaluation
{
    private const int Bins = 10;

    public static RewardModelMetrics Measure(MLContext ml, RewardTransformer model, IDataView data, RankingColumns columns)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(data);
        var problems = new OptionProblems(nameof(RlhfCatalog.EvaluateRewardModel));
        columns.Check(problems);
        problems.Throw();
        var host = ((IHostEnvironment)ml).Register(nameof(Evaluation));
        columns.Require(host, Schemas.Shape(data.Schema));
        using var channel = host.Start("Evaluating a reward model");
        var rankings = Tokenization.Rankings(
            data, columns, model.Tokenizer, model.Architecture.ContextLength, channel.WarningLine, Cancellation.Check(host));
        double[] scores = model.Use(network => RewardScoring.Score(network, rankings.Answers.Sequences));
        return Measure(rankings, scores, model.Gain, columns.Weight is not null);
    }

    /// <param name="rankings">The preferences.</param>
    /// <param name="scores">The score of each answer.</param>
    /// <param name="gain">What the scores were normalised with.</param>
    /// <param name="byConfidence">Whether the weights say how sure labelers were.</param>
    private static RewardModelMetrics Measure(RankingData rankings, double[] scores, double gain, bool byConfidence)
    {
        double[] lengths = [.. Enumerable.Range(0, scores.Length).Select(i =>
            (double)rankings.Answers.Sequences.Length(i) - rankings.Answers.PromptLengths[i])];
        Pair[] pairs = [.. from prompt in Enumerable.Range(0, rankings.Count)
                           from pair in rankings.Pairs(prompt)
                           select new Pair(pair.Better, pair.Worse, scores[pair.Better] - scores[pair.Worse], rankings.Weights[prompt])];
        double longer = pairs.Average(pair => Win(lengths[pair.Better] - lengths[pair.Worse]));
        var calibration = Calibrate([.. pairs.Select(pair => pair.Margin / gain)]);
        return new RewardModelMetrics
        {
            PromptCount = rankings.Count,
            PairCount = pairs.Length,
            Accuracy = Accuracy(pairs),
            TieCount = pairs.Count(pair => pair.Margin == 0),
            LengthBaselineAccuracy = Math.Max(longer, 1 - longer),
            MeanChosenScore = pairs.Average(pair => scores[pair.Better]),
            MeanRejectedScore = pairs.Average(pair => scores[pair.Worse]),
            Loss = pairs.Average(pair => -LogSigmoid(pair.Margin / gain)),
            Calibration = calibration,
            ExpectedCalibrationError = calibration.Sum(bin => bin.PairCount * Math.Abs(bin.Predicted - bin.Observed)) / pairs.Length,
            ByConfidence = byConfidence ? GroupByConfidence(pairs) : [],
            LengthCorrelation = Correlation(scores, lengths),
        };
    }

    private static CalibrationBin[] Calibrate(double[] logOdds)
    {
        const double Width = 0.5 / Bins;
        return [.. from logOdd in logOdds
                   let predicted = Math.Exp(LogSigmoid(Math.Abs(logOdd)))
                   group (Predicted: predicted, Won: Win(logOdd)) by Math.Min((int)((predicted - 0.5) / Width), Bins - 1) into bin
                   orderby bin.Key
                   select new CalibrationBin(
                       0.5 + bin.Key * Width, 0.5 + (bin.Key + 1) * Width, bin.Count(), bin.Average(pair => pair.Predicted),
                       bin.Average(pair => pair.Won))];
    }

    private static ConfidenceBin[] GroupByConfidence(Pair[] pairs)
    {
        float[] sorted = [.. pairs.Select(pair => pair.Confidence).Order()];
        float[] values = [.. sorted.Distinct()];
        // Of many values, one stands where it first stands in the order, so that equal ones are never parted.
        int Group(float value) => values.Length <= Bins
            ? Array.BinarySearch(values, value)
            : (int)((long)Array.IndexOf(sorted, value) * Bins / sorted.Length);
        var groups = values.ToDictionary(value => value, Group);
        return [.. from pair in pairs
                   group pair by groups[pair.Confidence] into bin
                   orderby bin.Key
                   select new ConfidenceBin(
                       bin.Min(pair => pair.Confidence), bin.Max(pair => pair.Confidence), bin.Count(), Accuracy([.. bin]))];
    }

    private static double Accuracy(Pair[] pairs) => pairs.Average(pair => Win(pair.Margin));

    /// <summary>1 for a margin above 0, ½ for a tie.</summary>
    private static double Win(double margin) => margin > 0 ? 1 : margin == 0 ? 0.5 : 0;

    private static double LogSigmoid(double x) => Math.Min(x, 0) - Math.Log(1 + Math.Exp(-Math.Abs(x)));

    private static double Correlation(double[] x, double[] y)
    {
        double meanX = x.Average(), meanY = y.Average();
        double covariance = x.Zip(y, (a, b) => (a - meanX) * (b - meanY)).Sum();
        return covariance / Math.Sqrt(x.Sum(a => (a - meanX) * (a - meanX)) * y.Sum(b => (b - meanY) * (b - meanY)));
    }

    /// <param name="Better">Index of the answer that people preferred.</param>
    /// <param name="Worse">Index of the other.</param>
    /// <param name="Margin">By how much the better answer scored higher.</param>
    /// <param name="Confidence">The weight of the row.</param>
    private sealed record Pair(int Better, int Worse, double Margin, float Confidence);
}
