using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Training;

/// <summary>Runs that go wrong, and what becomes of them.</summary>
public class AlarmTests
{
    /// <summary>Each kind that a run can earn. <see cref="AlarmKind.NegativeKl"/> takes a bug.</summary>
    public static TheoryData<AlarmKind> Earned =>
        [.. Enum.GetValues<AlarmKind>().Where(kind => kind != AlarmKind.NegativeKl)];

    [Theory]
    [MemberData(nameof(Earned))]
    public void A_run_that_goes_wrong_raises_its_alarm_with_the_default_options(AlarmKind kind)
    {
        var recorded = TinyAlarms.Earning(kind, new AlarmOptions()).Run().Recorded;

        var update = Assert.Single(recorded.Updates, u => u.Alarms.Any(a => a.Kind == kind));
        var alarm = update.Alarms.Single(a => a.Kind == kind);
        Assert.Equal(AlarmPolicy.Log, alarm.Policy);
        Assert.Matches(@"^The [^\r\n]+: [^\r\n]+\. [A-Z][^\r\n]+\.$", alarm.Message);
        Assert.Contains($"Update {update.Step}: {alarm.Message}", recorded.Warnings);
        Assert.Equal(recorded.Reports.Count, recorded.Reports[^1].TotalSteps); // it went on to the end
    }

    /// <summary>The reference is all that the policy once was: what it sampled is taken for the policy's.</summary>
    [Fact]
    public void Responses_of_another_policy_give_a_negative_KL()
    {
        var ppo = new TinyPpo(new PolicyOptions { MaxResponseTokens = 8 });
        var episodes = ppo.Sample(200);
        using (no_grad())
            foreach (var parameter in ppo.Policy.parameters())
                parameter.mul_(0.8);
        var statistics = new PpoTraining.Statistics();
        double[] scores = TinyPpo.TreatRate(episodes);
        ppo.Training.Evaluate(episodes, scores, statistics);

        var alarms = new PolicyMonitor(new PolicyOptions())
            .AfterRollout(RolloutMeasures.Of(statistics, episodes, scores, goldScores: null));

        Assert.Equal(AlarmKind.NegativeKl, Assert.Single(alarms).Kind);
        Assert.True(statistics.LogProbDrift > 0.01); // where the message sends one to look
    }

    [Theory]
    [InlineData(Precision.Float32, @"0\.001")]
    [InlineData(Precision.BFloat16, @"0\.1")]
    public void Responses_that_were_sampled_from_another_distribution_are_warned_of_once(Precision precision, string largest)
    {
        var ppo = new TinyPpo(new PolicyOptions { MaxResponseTokens = 8 });
        var episodes = ppo.Sample(8);
        using (no_grad())
            foreach (var parameter in ppo.Policy.parameters())
                parameter.mul_(0.8);
        var statistics = new PpoTraining.Statistics();
        double[] scores = TinyPpo.TreatRate(episodes);
        ppo.Training.Evaluate(episodes, scores, statistics);
        using var optimizer = new AdamW(new PolicyOptions(), ppo.Policy);
        using var guard = new PolicyGuard(new PolicyOptions(), ppo.Recorded.Run, precision, average: null, kl: null, optimizer);

        for (int update = 0; update < 2; update++)
        {
            guard.Learn(update, RolloutMeasures.Of(statistics, episodes, scores, goldScores: null), statistics, () => { });
            guard.Warn();
        }

        Assert.Matches($@"^Update 1: a token's log-probability was \d+\.\d+ off while it was sampled, where rounding stays below {largest}\. ",
            Assert.Single(ppo.Recorded.Warnings, warning => warning.Contains("off while it was sampled")));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(2)]
    public void A_healthy_run_raises_none(int seed)
    {
        double[] FirstToken(IReadOnlyList<Episode> episodes) => [.. episodes.Select(e => e.Response[0] < 10 ? 1.0 : 0.0)];
        var recorded = new TinyPpo(
            new PolicyOptions
            {
                Episodes = 20 * 32, EpisodesPerUpdate = 32, MaxResponseTokens = 6, LearningRate = 2e-3, KlCoefficient = 0.1,
                UnfinishedScore = null,
            },
            seed, TinyGpt.Fresh(seed), scorer: FirstToken, goldScorer: FirstToken).Run().Recorded;

        var updates = recorded.Updates.ToArray();
        Assert.True(updates[^4..].Average(u => u.Score) > updates[..4].Average(u => u.Score) + 0.1); // it did learn something
        Assert.All(updates, u => Assert.Empty(u.Alarms));
        Assert.All(updates, u => Assert.Equal(u.Score, u.GoldScore!.Value, 1e-12));
        Assert.Empty(recorded.Warnings);
    }

    [Theory]
    [MemberData(nameof(Earned))]
    public void Stop_ends_the_run_with_the_weights_that_sampled_the_last_healthy_responses(AlarmKind kind)
    {
        var weights = new List<Dictionary<string, Tensor>>();
        var ppo = TinyAlarms.Earning(
            kind, TinyAlarms.Only(kind, AlarmPolicy.Stop), onScore: ppo => weights.Add(TinyGpt.Snapshot(ppo.Policy))).Run();

        var last = ppo.Recorded.Updates.Last();
        var alarm = Assert.Single(last.Alarms);
        Assert.Equal((kind, AlarmPolicy.Stop), (alarm.Kind, alarm.Policy));
        Assert.True(last.Step < last.TotalSteps, "the run went on to its end");
        Assert.Equal(last.Step, ppo.Recorded.Reports.Count);

        // What the steps show, they learned from healthy responses; what the responses show, the update before did.
        bool seenInSteps = kind is AlarmKind.HighClipFraction or AlarmKind.HighRatioMean or AlarmKind.NonFinite;
        if (kind != AlarmKind.NonFinite) // the very first step was not taken
            Assert.Equal(seenInSteps, last.OptimizerSteps > 0);
        int good = seenInSteps ? last.Step : last.Step - 1;
        Assert.All(ppo.Policy.named_parameters(), p => Assert.Equal(0, Close.Distance(weights[good - 1][p.name], p.parameter)));
        Assert.Equal(
            [$"Update {last.Step}: {alarm.Message} The run ends with the weights that sampled update {good}."], ppo.Recorded.Warnings);
    }

    [Fact]
    public void Roll_back_goes_on_from_the_last_good_weights_at_half_the_rate()
    {
        var weights = new List<Dictionary<string, Tensor>>();
        var ppo = TinyAlarms.Earning(
            AlarmKind.LowEntropy, TinyAlarms.Only(AlarmKind.LowEntropy, AlarmPolicy.RollBack) with { MinEntropy = 5 }, // of 5.7 at first
            onScore: ppo => weights.Add(TinyGpt.Snapshot(ppo.Policy))).Run();

        var updates = ppo.Recorded.Updates.ToArray();
        int[] raised = [.. updates.Where(u => u.Alarms.Count > 0).Select(u => u.Step)];
        Assert.Equal([2, 4], raised);
        foreach (int step in raised)
        {
            Assert.Equal(0, updates[step - 1].OptimizerSteps);
            Assert.Equal((1, 1, 0), (updates[step - 1].RatioMean, updates[step - 1].RatioMaximum, updates[step - 1].Loss));
        }
        AssertSame(weights[0], weights[2]); // update 1 was healthy, update 2 was not
        AssertSame(weights[2], weights[4]);
        double Rate(int step) => 0.1 * (1 - (step - 1) / 5.0); // linear over five updates
        Assert.Equal(
            [Rate(1), Rate(2), Rate(3) / 2, Rate(4) / 2, Rate(5) / 4], updates.Select(u => u.LearningRate),
            (expected, actual) => Math.Abs(expected - actual) < 1e-12);
        Assert.Equal(
            $"Update 2: {updates[1].Alarms[0].Message} The run goes back to the weights that sampled update 1, and goes on at 0.5 of the " +
            "learning rate.", ppo.Recorded.Warnings[0]);
    }

    [Fact]
    public void The_third_way_back_is_the_last()
    {
        var start = new List<Dictionary<string, Tensor>>();
        var ppo = TinyAlarms.Earning(
            AlarmKind.HighRatioMean,
            TinyAlarms.Only(AlarmKind.HighRatioMean, AlarmPolicy.RollBack) with { MaxRatioMean = 1.05 },
            onScore: ppo => start.Add(TinyGpt.Snapshot(ppo.Policy))).Run();

        var updates = ppo.Recorded.Updates.ToArray();
        Assert.Equal([AlarmPolicy.RollBack, AlarmPolicy.RollBack, AlarmPolicy.Stop], updates.Select(u => Assert.Single(u.Alarms).Policy));
        Assert.All(start, weights => AssertSame(start[0], weights));
        AssertSame(start[0], TinyGpt.Snapshot(ppo.Policy));
        Assert.Equal(
            $"Update 3: {updates[2].Alarms[0].Message} The run ends with the weights that sampled update 3, after going back 3 times.",
            ppo.Recorded.Warnings[^1]);
    }

    /// <summary>The update that is taken back is the second, whose steps go further than those of the first.</summary>
    [Fact]
    public void What_is_taken_back_counts_neither_for_the_average_nor_for_beta()
    {
        TinyPpo Run(int updates, double maxRatioMean) => new TinyPpo(new PolicyOptions
        {
            Episodes = updates * 32, EpisodesPerUpdate = 32, MaxResponseTokens = 6, LearningRate = 5e-2, UnfinishedScore = null,
            LearningRateDecay = LearningRateDecay.Constant, EmaDecay = 0.9, TargetKl = 1000, KlHorizon = 64,
            Alarms = TinyAlarms.Only(AlarmKind.HighRatioMean, AlarmPolicy.RollBack) with { MaxRatioMean = maxRatioMean },
        }).Run();
        double[] ratios = [.. Run(2, 1e9).Recorded.Updates.Select(u => u.RatioMean)];
        double between = (Math.Max(1, ratios[0]) + ratios[1]) / 2;

        TinyPpo one = Run(1, between), two = Run(2, between);
        var three = Run(3, between).Recorded.Updates.ToArray();

        Assert.Equal([0, 1], three[..2].Select(u => u.Alarms.Count));
        AssertSame(TinyGpt.Snapshot(one.Policy), TinyGpt.Snapshot(two.Policy)); // both are averages
        Assert.True(three[1].KlCoefficient < three[0].KlCoefficient);
        Assert.Equal(three[1].KlCoefficient, three[2].KlCoefficient);
    }

    /// <summary>The responses of update 2 are too far away, and those of update 1 are sampled from once more.</summary>
    [Fact]
    public void Beta_goes_back_with_the_weights()
    {
        var ppo = TinyAlarms.Earning(
            AlarmKind.LowEntropy, TinyAlarms.Only(AlarmKind.LowEntropy, AlarmPolicy.RollBack) with { MinEntropy = 5 },
            change: options => options with { KlCoefficient = 0.05, TargetKl = 1000, KlHorizon = 8 }).Run();

        double[] betas = [.. ppo.Recorded.Updates.Select(u => u.KlCoefficient)];
        Assert.Equal(0.045, betas[1], 1e-12); // 4 episodes of a horizon of 8: half of a fifth
        Assert.Equal(0.05, betas[2]);
    }

    [Fact]
    public void One_bad_batch_is_gone_after_a_roll_back()
    {
        var ppo = TinyAlarms.Earning(AlarmKind.NonFinite, TinyAlarms.Only(AlarmKind.NonFinite, AlarmPolicy.RollBack)).Run();

        Assert.Equal(6, ppo.Recorded.Reports.Count);
        Assert.Equal([3], ppo.Recorded.Updates.Where(u => u.Alarms.Count > 0).Select(u => u.Step));
        Assert.All(ppo.Recorded.Updates.Where(u => u.Step != 3), u => Assert.True(double.IsFinite(u.Loss)));
        Assert.All(ppo.Policy.parameters().Concat(ppo.Value.parameters()), p => Assert.True(p.isfinite().all().ToBoolean()));
    }

    /// <summary>A rate without end breaks the weights in one step, with gradients that are all finite.</summary>
    [Theory]
    [InlineData(AlarmPolicy.Stop)]
    [InlineData(AlarmPolicy.RollBack)]
    public void Broken_weights_are_never_the_ones_to_keep(AlarmPolicy policy)
    {
        var ppo = Exploding(policy);
        var start = TinyGpt.Snapshot(ppo.Policy);

        ppo.Run();

        Assert.StartsWith("The weights' norm is ", ppo.Recorded.Updates.ElementAt(1).Alarms.Single().Message);
        AssertSame(start, TinyGpt.Snapshot(ppo.Policy));
        Assert.Equal(policy == AlarmPolicy.Stop ? 2 : 6, ppo.Recorded.Reports.Count); // there, back, there, back, there, end
    }

    [Fact]
    public void A_run_does_not_go_on_silently_with_broken_weights()
    {
        var ppo = Exploding(AlarmPolicy.Log);

        var error = Assert.Throws<InvalidOperationException>(() => ppo.Run());

        Assert.StartsWith("Two updates in a row met numbers that are not finite. The weights' norm is ", error.Message);
        Assert.Equal(2, ppo.Recorded.Reports.Count);
        Assert.Throws<NonFiniteGradientException>(() => Exploding(AlarmPolicy.Ignore).Run());
    }

    [Theory]
    [InlineData("GRPO", AlarmPolicy.Log, 6)]
    [InlineData("GRPO", AlarmPolicy.Stop, 2)]
    [InlineData("GRPO", AlarmPolicy.RollBack, 6)]
    [InlineData("RLOO", AlarmPolicy.Log, 6)]
    [InlineData("RLOO", AlarmPolicy.Stop, 2)]
    [InlineData("RLOO", AlarmPolicy.RollBack, 6)]
    public void Groups_are_watched_too(string trainer, AlarmPolicy policy, int updates)
    {
        var alarms = TinyAlarms.Only(AlarmKind.HighKl, policy) with { MaxKl = 1e-3 };
        GroupHyperparameters options = trainer == "GRPO"
            ? new GrpoTestOptions { GroupSize = 4, UnfinishedScore = null, Alarms = alarms }
            : new RlooTestOptions { GroupSize = 4, UnfinishedScore = null, Alarms = alarms };
        options = options with { Episodes = 6 * 32, EpisodesPerUpdate = 32, MaxResponseTokens = 6, LearningRate = 0.03, EmaDecay = 0.5 };
        var group = new TinyGroup(options);
        var start = TinyGpt.Snapshot(group.Policy);

        group.Run();

        Assert.Equal(updates, group.Updates.Length);
        Assert.Equal(policy, Assert.Single(group.Updates[1].Alarms).Policy);
        Assert.Equal(policy == AlarmPolicy.Log, group.Updates[1].OptimizerSteps > 0);
        Assert.Equal(policy == AlarmPolicy.RollBack ? 0.5 : 1, group.Updates[2 % updates].LearningRate / Rate(2 % updates), 1e-12);
        if (policy == AlarmPolicy.Stop)
            AssertSame(start, TinyGpt.Snapshot(group.Policy)); // and so is the average
        double Rate(int update) => LearningRateSchedule.At(options, update, totalSteps: 6);
    }

    [Theory]
    [InlineData(AlarmPolicy.Log)]
    [InlineData(AlarmPolicy.RollBack)]
    public void Watching_leaves_no_tensors_behind(AlarmPolicy policy)
    {
        var counts = new List<long>();
        var options = new PolicyOptions
        {
            Episodes = 100 * 4, EpisodesPerUpdate = 4, EpochsPerUpdate = 1, MaxResponseTokens = 4,
            Alarms = TinyAlarms.Only(AlarmKind.NonFinite, policy),
        };
        long before = LiveTensors.Count;
        var ppo = new TinyPpo(options, onReport: _ => counts.Add(LiveTensors.Count));
        long made = LiveTensors.Count;

        ppo.Run();

        Assert.Equal(counts[19], counts[99]);
        Assert.InRange(LiveTensors.Count, before, made); // the copies went with the run
    }

    private static TinyPpo Exploding(AlarmPolicy policy) => new(new PolicyOptions
    {
        Episodes = 8 * 8, EpisodesPerUpdate = 8, EpochsPerUpdate = 1, MaxResponseTokens = 4, LearningRate = 1e37, UnfinishedScore = null,
        Alarms = TinyAlarms.Only(AlarmKind.NonFinite, policy),
    });

    private static void AssertSame(Dictionary<string, Tensor> expected, Dictionary<string, Tensor> actual) =>
        Assert.All(expected, p => Assert.Equal(0, Close.Distance(p.Value, actual[p.Key])));
}
