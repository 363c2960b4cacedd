using System.Xml.Linq;

namespace ML.Rlhf.Charts;

/// <summary>Is a reward model as often right as it says? On the diagonal it is. The larger a dot, the more pairs.</summary>
internal static class CalibrationChart
{
    public static XElement Draw(IReadOnlyList<CalibrationBin> bins)
    {
        var x = new Axis(0.5, 1, Chart.Left, Chart.Right, isTight: true);
        double least = Math.Min(0.5, bins.Select(bin => bin.Observed).DefaultIfEmpty(0.5).Min());
        var y = new Axis(least, 1, Chart.Bottom, Chart.Top);
        int most = bins.Select(bin => bin.PairCount).DefaultIfEmpty(1).Max();
        var ideal = Chart.Line([(0.5, 0.5), (1, 1)], x, y, "currentColor", 1, 0.4);
        ideal.SetAttributeValue("stroke-dasharray", "4 4");
        return Chart.Frame(
            "Calibration: observed over predicted",
            Chart.Axes(x, y, "predicted probability that the higher score wins"),
            ideal,
            Chart.Line(bins.Select(bin => (bin.Predicted, bin.Observed)), x, y, Chart.Colors[0], 1.5),
            bins.Select(bin => Chart.Shape(
                "circle", ("cx", x[bin.Predicted]), ("cy", y[bin.Observed]), ("r", 2 + 6 * Math.Sqrt((double)bin.PairCount / most)),
                ("fill", Chart.Colors[0]), ("fill-opacity", ".6"))));
    }
}
