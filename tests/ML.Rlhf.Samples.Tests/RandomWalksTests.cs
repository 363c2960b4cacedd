using System.Globalization;
using System.Text.RegularExpressions;

namespace ML.Rlhf.Samples.Tests;

public sealed partial class RandomWalksTests(ITestOutputHelper output)
{
    [Theory]
    [InlineData("ppo")]
    [InlineData("grpo")]
    [Trait("Tier", "Slow")]
    public async Task Walks_become_shortest_paths(string algorithm)
    {
        var (exitCode, text) = await Repository.DotNet("run", "samples/random-walks.cs", "--", "--seed", "2", "--algorithm", algorithm);

        Assert.True(exitCode == 0, text);
        string last = text.TrimEnd().Split('\n')[^1];
        output.WriteLine(last);
        var numbers = LastLine().Match(last);
        Assert.True(numbers.Success, last);
        Assert.Equal(algorithm, numbers.Groups["algorithm"].Value);
        Assert.InRange(Number("before"), 0.5, 0.75); // as the walks that it has read
        Assert.InRange(Number("after"), 0.9, 1);
        Assert.InRange(Number("kl"), 0.5, 20);

        double Number(string name) => double.Parse(numbers.Groups[name].Value, CultureInfo.InvariantCulture);
    }

    [GeneratedRegex(@"^optimality seed=2 algorithm=(?<algorithm>\w+) before=(?<before>[\d.]+) after=(?<after>[\d.]+) kl=(?<kl>[\d.]+)$")]
    private static partial Regex LastLine();
}
