using ML.Rlhf.Benchmarks;
using ML.Rlhf.Benchmarks.Measuring;
using ML.Rlhf.Benchmarks.Works;
using ML.Rlhf.Torch.Native;

namespace ML.Rlhf.Samples.Tests;

/// <summary>The side-by-side benchmark measures what it says. No test asserts a time.</summary>
public sealed class BenchmarkTests
{
    private static readonly MachineLimit s_limit = new(Float32: 1e12, BFloat16: 2e12, Bandwidth: 1e10);

    [Theory]
    [InlineData(null)]
    [InlineData(37888.0)]
    public void A_line_gives_back_what_was_measured(double? allocated)
    {
        var measured = new Measurement("tokens", 2140.9, 1185, allocated);

        Assert.Equal(measured, Measurement.Parse("ours", $"a warning\n{measured.ToLine("ours")}\n"));
    }

    [Fact]
    public void The_line_of_a_peer_is_not_taken_for_ours()
    {
        const string Output = "peer tokens/s=10.0 peak-MB=20\n";

        Assert.Equal(new Measurement("tokens", 10, 20), Measurement.Parse("peer", Output));
        Assert.Contains("peak-MB=20", Assert.Throws<FormatException>(() => Measurement.Parse("ours", Output)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void The_limit_of_a_machine_survives_its_line()
    {
        Assert.Equal(s_limit, MachineLimit.Parse(s_limit.ToLine()));
        Assert.Equal(2e12, s_limit.Compute);
        Assert.Equal(3, s_limit.Seconds(operations: 1e12, bytes: 3e10));
        Assert.Equal(5, s_limit.Seconds(operations: 1e13, bytes: 3e10));
    }

    [Theory]
    [InlineData(new[] { 3.0, 1, 2 }, 2, 1, 3)]
    [InlineData(new[] { 4.0, 1, 2, 8 }, 3, 1, 8)]
    public void A_spread_is_median_minimum_and_maximum(double[] values, double median, double minimum, double maximum) =>
        Assert.Equal(new Spread(median, minimum, maximum), Spread.Of(values));

    /// <summary>A machine at half its speed for a round changes nothing.</summary>
    [Fact]
    public void A_ratio_compares_the_two_sides_of_a_round()
    {
        var result = new Result(AllWorks.Find("train-6x384")[0]);
        result.Ours.AddRange([Tokens(200), Tokens(100), Tokens(210)]);
        result.Peers.AddRange([Tokens(100), Tokens(50), Tokens(100)]);

        Assert.Equal(new Spread(2, 2, 2.1), result.Ratio);
        Assert.StartsWith(
            "ratio train-6x384 2.00 min 2.00 max 2.10 share-of-limit ", SideBySide.PlainLines(result, s_limit).First(),
            StringComparison.Ordinal);
        Assert.Contains("memory train-6x384 1.00x", SideBySide.PlainLines(result, s_limit));
    }

    [Fact]
    public void A_figure_of_another_day_is_scaled_by_what_ran_beside_it()
    {
        var result = new Result(AllWorks.Find("ppo-4x128")[0]);
        result.Ours.Add(new Measurement("episodes", 24, 500));
        result.Peers.Add(Tokens(2 * 2290)); // twice as fast as when TRL made 24 episodes/s

        Assert.Equal(48, result.PeerRate!.Value.Median, tolerance: 1e-9);
        Assert.Equal(0.5, result.Ratio!.Value.Median, tolerance: 1e-9);
        Assert.Null(result.PeerPeak); // the process beside it did another work
    }

    [Fact]
    public void Without_a_peer_a_work_says_our_figure_alone()
    {
        var result = new Result(AllWorks.Find("generate-6x384-1")[0]);
        result.Ours.Add(Tokens(250));

        Assert.StartsWith(
            "ours generate-6x384-1 tokens/s 250.0 min 250.0 max 250.0 ", Assert.Single(SideBySide.PlainLines(result, s_limit)),
            StringComparison.Ordinal);
    }

    [Fact]
    public void A_name_finds_one_work_or_all_that_begin_so()
    {
        Assert.Equal("generate-gpt2-1", Assert.Single(AllWorks.Find("generate-gpt2-1")).Name);
        Assert.Equal(["ppo-4x128", "ppo-6x384"], AllWorks.Find("ppo").Select(w => w.Name));
        Assert.Equal(AllWorks.All, AllWorks.Find(""));
        Assert.Contains("sft-6x384", Assert.Throws<ArgumentException>(() => AllWorks.Find("sleep")).Message, StringComparison.Ordinal);
    }

    /// <summary>Each kind of work, on a model so small that it is done at once.</summary>
    [Theory]
    [Trait("Tier", "Slow")]
    [InlineData("train-6x384")]
    [InlineData("generate-6x384-32")]
    [InlineData("ppo-6x384")]
    [InlineData("sft-6x384")]
    [InlineData("reward-6x384")]
    public void Our_side_of_a_work_runs(string name)
    {
        LibTorch.EnsureLoaded();
        var work = AllWorks.Find(name)[0];
        work = work with { Model = work.Model with { Layers = 1, Heads = 2, Width = 16, ContextLength = 128 }, Warmup = 1, Steps = 1 };

        var measured = work.RunOurs();

        Assert.True(measured.PerSecond > 0 && double.IsFinite(measured.PerSecond));
        Assert.True(measured.PeakMegabytes > 10);
        Assert.Equal(name.StartsWith("generate", StringComparison.Ordinal), measured.AllocatedPerStep is null);
    }

    private static Measurement Tokens(double perSecond) => new("tokens", perSecond, PeakMegabytes: 1000);
}
