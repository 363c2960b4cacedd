using System.Xml.Linq;
using ML.Rlhf.Charts;

namespace ML.Rlhf;

/// <summary>
/// Proxy and gold score over the divergence from the start. In a notebook it shows itself as a chart: where the proxy goes on rising and
/// the gold score falls, the proxy is exploited (Gao, Schulman and Hilton 2022).
/// </summary>
/// <param name="title">What was varied, such as "best of n".</param>
/// <param name="points">The points, in any order.</param>
[TypeFormatterSource(typeof(HtmlFormatterSource))]
public sealed class OverOptimizationCurve(string title, IReadOnlyList<OverOptimizationPoint> points) : IHtmlDisplay
{
    /// <summary>The points, by their divergence.</summary>
    public IReadOnlyList<OverOptimizationPoint> Points { get; } = [.. points.OrderBy(point => point.Kl)];

    /// <summary>The chart, with one standard error to either side of each point, as a piece of HTML that needs no other file.</summary>
    public string ToHtml() => Html.Render(Chart());

    internal XElement Chart() => LineChart.Draw(
        title, "KL to the start, nats",
        new Series("proxy", [.. Points.Select(p => (p.Kl, p.ProxyScore))], [.. Points.Select(p => p.ProxyStandardError)]),
        new Series("gold", [.. Points.Select(p => (p.Kl, p.GoldScore))], [.. Points.Select(p => p.GoldStandardError)]));

    /// <summary>The points, a line each.</summary>
    public override string ToString() => string.Join('\n', Points.Select(p => FormattableString.Invariant(
        $"KL {p.Kl:F2}: proxy {p.ProxyScore:F3} ± {p.ProxyStandardError:F3}, gold {p.GoldScore:F3} ± {p.GoldStandardError:F3}")));
}
