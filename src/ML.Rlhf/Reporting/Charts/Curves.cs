using System.Xml.Linq;

namespace ML.Rlhf.Charts;

/// <summary>The learning curves of a run: those that tell whether it is well, and no others.</summary>
internal static class Curves
{
    private static readonly (string Title, (string Metric, string Name)[] Lines)[] s_charts =
    [
        ("Loss", [("loss", "training"), ("eval_loss", "validation")]),
        ("Score", [("objective/scores", "score"), ("objective/rlhf_reward", "score − β·KL"), ("objective/gold_scores", "gold score")]),
        ("KL to the reference, nats", [("objective/kl", "KL")]),
        ("KL to the reference, nats", [("kl", "KL")]), // KTO
        ("Implicit reward", [("rewards/chosen", "chosen"), ("rewards/rejected", "rejected")]),
        ("Pairs in the right order", [("rewards/accuracies", "accuracy")]),
        ("Entropy per token, nats", [("objective/entropy", "entropy")]),
        ("Tokens per answer", [("response/length", "length")]),
        ("Part of the answers that end", [("response/stop_rate", "ended")]),
        ("Part of the tokens that were clipped", [("policy/clipfrac", "policy"), ("val/clipfrac", "value")]),
        ("Value function: explained variance", [("val/var_explained", "explained")]),
        ("Groups that teach nothing", [("frac_reward_zero_std", "equal scores")]),
        ("Gradient norm", [("grad_norm", "norm")]),
        ("Learning rate", [("lr", "rate")]),
    ];

    public static IEnumerable<XElement> Of(TrainingHistory history)
    {
        foreach (var (title, lines) in s_charts)
        {
            Series[] series = [.. lines.Where(line => history[line.Metric].Count > 0).Select(line =>
                new Series(line.Name, [.. history[line.Metric].Select(point => ((double)point.Step, point.Value))]))];
            if (series.Length > 0)
                yield return LineChart.Draw(title, "step", series);
        }
    }
}
