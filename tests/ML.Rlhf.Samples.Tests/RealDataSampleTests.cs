using System.Globalization;
using System.Text.RegularExpressions;

namespace ML.Rlhf.Samples.Tests;

/// <summary>The samples that need real data run to their last line.</summary>
[Trait("Tier", "Slow")]
public sealed class RealDataSampleTests(ITestOutputHelper output)
{
    [Fact]
    public async Task Positive_reviews_become_more_positive()
    {
        var (exitCode, text) = await Repository.DotNet(
            "run", "samples/positive-reviews.cs", "--", "--data", Repository.RealData("movie-reviews.zip"), "--fast");
        output.WriteLine(text);
        Assert.Equal(0, exitCode);
        var line = LastLine(text, @"^positive seed=1 before=(\d\.\d\d) after=(\d\.\d\d) delta=(-?\d\.\d\d) " +
            @"ci95=\[(-?\d\.\d\d),(-?\d\.\d\d)\] gold=(\d\.\d\d) kl=(\d+\.\d) prompts=400$");
        Assert.True(line[2] > line[1], $"before {line[1]}, after {line[2]}");
        Assert.InRange(line[3], line[4], line[5]);
        Assert.True(line[4] > 0, $"the interval of the difference begins at {line[4]}");
    }

    [Fact]
    public async Task Data_without_reviews_is_an_error_that_says_what_is_expected()
    {
        var (exitCode, text) = await Repository.DotNet("run", "samples/positive-reviews.cs", "--", "--data", "no-such-folder");
        Assert.Equal(1, exitCode);
        Assert.Contains("Pass a folder or zip with 100 or more text files in pos/ and neg/", text, StringComparison.Ordinal);
    }

    /// <summary>Whether the reward model beats guessing is a measurement, and no requirement: the pairs are hard.</summary>
    [Fact]
    public async Task Preferences_are_reported_with_an_interval_beside_the_length_baseline()
    {
        var (exitCode, text) = await Repository.DotNet(
            "run", "samples/helpful-harmless.cs", "--", "--data", Repository.RealData("hh-single-turn.jsonl"), "--fast");
        output.WriteLine(text);
        Assert.Equal(0, exitCode);
        var line = LastLine(text,
            @"^preferences seed=1 accuracy=(\d\.\d\d) ci95=\[(\d\.\d\d),(\d\.\d\d)\] length-baseline=(\d\.\d\d) pairs=(\d+)$");
        Assert.InRange(line[1], line[2], line[3]);
        Assert.InRange(line[3] - line[2], 0.075, 0.095); // 2·1.96·√(0.25 / 520), and rounding
        Assert.InRange(line[5], 510, 524); // a quarter of 2,096, less those whose prompts do not fit
    }

    /// <summary>Which of the two is ahead is a measurement, and no requirement.</summary>
    [Fact]
    public async Task An_LSTM_and_a_GPT_are_compared_at_equal_parameters()
    {
        var (exitCode, text) = await Repository.DotNet(
            "run", "samples/lstm-against-gpt.cs", "--", "--data", Repository.RealData("tinyshakespeare.txt"), "--fast");
        output.WriteLine(text);
        Assert.Equal(0, exitCode);
        var line = LastLine(text, @"^lstm-against-gpt tokens=(\d+) parameters=(\d+) lstm=(\d\.\d\d) gpt=(\d\.\d\d)$");
        Assert.Equal(100 * 8 * 128, line[1]);
        double lstmParameters = double.Parse(Regex.Match(text, @"LSTM: .*?, (\d+)\.").Groups[1].Value, CultureInfo.InvariantCulture);
        Assert.InRange(lstmParameters / line[2], 0.99, 1.01);
        Assert.All(line[3..], loss => Assert.InRange(loss, 1.5, 3)); // guessing among 65 letters is 4.17, letters by their frequency 3.3
        Assert.Equal(5, Regex.Count(text, @"^\|(---\|)+\r?$", RegexOptions.Multiline)); // the tables
        Assert.DoesNotContain("NaN", text, StringComparison.Ordinal);
    }

    /// <summary>The numbers of the last line, by group; the line itself fails the test where it has another form.</summary>
    private static double[] LastLine(string text, string pattern)
    {
        string line = text.TrimEnd().Split('\n')[^1];
        Assert.Matches(pattern, line);
        return [0, .. Regex.Match(line, pattern).Groups.Values.Skip(1).Select(g => double.Parse(g.Value, CultureInfo.InvariantCulture))];
    }
}
