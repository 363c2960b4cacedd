using System.Globalization;
using ML.Rlhf.Torch.Training;

namespace ML.Rlhf.Torch.Tests.Training;

/// <summary>The alarms on made-up measures: what each says, when it is raised, and that chance raises none.</summary>
public class PolicyMonitorTests
{
    /// <summary>An update of 128 responses that nothing is wrong with.</summary>
    private static readonly RolloutMeasures s_healthy = new(
        Around(1, 0.5), Entropy: 2, Around(10, 4), Rate(0.75), Around(0.2, 0.5), ScoreRange: (-1, 1.5), Around(0.3, 0.4));

    public static TheoryData<AlarmKind, string> Messages => new()
    {
        {
            AlarmKind.NegativeKl,
            "The mean KL to the reference is -0.400 (standard error 0.044), but no policy's own responses give less than 0: the " +
            "log-probabilities are not those that were sampled from. Look for what differs between sampling and learning (temperature, " +
            "top-k, weights, end token) where LogProbDrift is above 0.001 (0.1 in bfloat16)."
        },
        {
            AlarmKind.HighKl,
            "The mean KL to the reference is 50.5 nats, above MaxKl (50): the policy has left the responses that the reward was made " +
            "for. Raise KlCoefficient, lower LearningRate, or end the run earlier."
        },
        {
            AlarmKind.LowEntropy,
            "The mean entropy is 0.0090 nats, under MinEntropy (0.01): the policy has settled on one response to each prompt and tries " +
            "no others. Raise KlCoefficient, lower LearningRate, or end the run earlier."
        },
        {
            AlarmKind.LengthDrift,
            "The mean response length is 20.0 tokens, 2.5 standard deviations from the 10.0 at first: the reward pays for long " +
            "responses. Look whether length alone scores as well, take it out of the reward, or raise KlCoefficient."
        },
        {
            AlarmKind.FallingEndRate,
            "The end rate fell from 0.750 to 0.375: not to end scores more. Lower UnfinishedScore, raise UnfinishedPenalty, or raise " +
            "KlCoefficient."
        },
        {
            AlarmKind.FallingGoldScore,
            "The gold score fell from 0.300 to -0.200 while the score rose from 0.200 to 0.700: the policy exploits the reward's errors. " +
            "End the run earlier, raise KlCoefficient, or train the reward on such responses too."
        },
        {
            AlarmKind.ScoreCollapse,
            "The scores' standard deviation is 0.0100, at first 0.5000, around a mean of 0.200: the reward no longer tells the policy's " +
            "responses apart. Raise KlCoefficient, lower LearningRate, or use a reward with finer steps."
        },
        {
            AlarmKind.NonFinite,
            "The weights' norm is NaN, the KL 1, the entropy 2: a step was so large that the model is broken. Lower LearningRate, raise " +
            "WarmupSteps, or bring the scores to a deviation near 1."
        },
    };

    private static RolloutMeasures Sick(AlarmKind kind) => kind switch
    {
        AlarmKind.NegativeKl => s_healthy with { Kl = Around(-0.4, 0.5) },
        AlarmKind.HighKl => s_healthy with { Kl = Around(50.5, 0.5) },
        AlarmKind.LowEntropy => s_healthy with { Entropy = 0.009 },
        AlarmKind.LengthDrift => s_healthy with { Length = Around(20, 2) },
        AlarmKind.FallingEndRate => s_healthy with { Ended = Rate(0.375) },
        AlarmKind.FallingGoldScore => s_healthy with { GoldScore = Around(-0.2, 0.4), Score = Around(0.7, 0.5) },
        AlarmKind.ScoreCollapse => s_healthy with { Score = Around(0.2, 0.01) },
        _ => s_healthy with { WeightNorm = double.NaN },
    };

    [Theory]
    [MemberData(nameof(Messages))]
    public void An_alarm_says_number_cause_and_fix_in_one_line(AlarmKind kind, string message)
    {
        var culture = CultureInfo.CurrentCulture;
        var comma = (CultureInfo)CultureInfo.InvariantCulture.Clone();
        comma.NumberFormat.NumberDecimalSeparator = ",";
        CultureInfo.CurrentCulture = comma;
        try
        {
            var monitor = new PolicyMonitor(new PolicyOptions());
            for (int i = 0; i < 2; i++)
                Assert.Empty(monitor.AfterRollout(s_healthy));

            Assert.Equal(new TrainingAlarm(kind, message, AlarmPolicy.Log), Assert.Single(monitor.AfterRollout(Sick(kind))));
        }
        finally
        {
            CultureInfo.CurrentCulture = culture;
        }
    }

    [Fact]
    public void Optimiser_steps_raise_alarms_with_number_cause_and_fix()
    {
        var monitor = new PolicyMonitor(new PolicyOptions());

        Assert.Empty(monitor.AfterSteps(clipFraction: 0.4, ratioMean: 10, loss: 1));
        Assert.Equal(
        [
            new TrainingAlarm(
                AlarmKind.HighClipFraction,
                "The clip fraction is 0.412, above MaxClipFraction (0.4): the steps are so large that much of what they learn from is " +
                "cut off. Lower LearningRate or EpochsPerUpdate, or set MaxUpdateKl.", AlarmPolicy.Log),
            new TrainingAlarm(
                AlarmKind.HighRatioMean,
                "The mean probability ratio is 1.235E+07, above MaxRatioMean (10): the update went far from the policy that sampled its " +
                "responses. Lower LearningRate or EpochsPerUpdate, or set MaxUpdateKl.", AlarmPolicy.Log),
        ], monitor.AfterSteps(clipFraction: 0.412, ratioMean: 12345678, loss: 1));
        Assert.Equal(
            "The loss is Infinity: a step was too large, or a score is extreme. Lower LearningRate, raise WarmupSteps, or bring the " +
            "scores to a deviation near 1.", Assert.Single(monitor.AfterSteps(0, 1, double.PositiveInfinity)).Message);
        Assert.Equal(
            "The gradient's norm is NaN, and the step was not taken: an earlier step was too large, or a score is extreme. Lower " +
            "LearningRate, raise WarmupSteps, or bring the scores to a deviation near 1.",
            Assert.Single(monitor.NonFiniteGradient(double.NaN)).Message);
    }

    [Theory]
    [InlineData(1, 1, false, "the reward gives all responses the same. Try it on a few good and bad responses.")]
    [InlineData(-1, -1, true,
        "no response ends, and all have the score of unfinished ones. Raise MaxResponseTokens, begin with a model that learned to end, " +
        "or set UnfinishedScore to null.")]
    [InlineData(0, 1, false,
        "all responses have reached the best score that was seen, and nothing is left to learn. End the run earlier, or use a reward " +
        "that still tells good responses apart.")]
    [InlineData(0, 0.5, false,
        "the reward no longer tells the policy's responses apart. Raise KlCoefficient, lower LearningRate, or use a reward with finer " +
        "steps.")]
    public void Scores_collapse_for_a_reason(double first, double last, bool neverEnds, string causeAndFix)
    {
        var monitor = Watching(AlarmKind.ScoreCollapse, AlarmPolicy.RollBack);
        var ended = neverEnds ? Rate(0) : Rate(0.75);
        var start = first == last ? Around(first, 0) : Around(first, 1);
        List<TrainingAlarm> alarms = [];
        for (int i = 0; i < 4; i++)
            alarms.AddRange(monitor.AfterRollout(s_healthy with
            {
                Ended = ended,
                Score = i < 2 ? start : Around(last, 0),
                ScoreRange = first == last ? (first, first) : i < 2 ? (-1, 1) : (last, last),
            }));

        var alarm = alarms[0];
        Assert.EndsWith($"around a mean of {last.ToString("F3", CultureInfo.InvariantCulture)}: {causeAndFix}", alarm.Message);
        // What has reached the best has nothing to go back for.
        Assert.Equal(causeAndFix.Contains("best") ? AlarmPolicy.Log : AlarmPolicy.RollBack, alarm.Policy);
    }

    [Fact]
    public void Where_not_to_end_costs_nothing_the_fix_is_to_let_it_cost_something()
    {
        var monitor = new PolicyMonitor(new PolicyOptions { UnfinishedScore = null });
        for (int i = 0; i < 4; i++)
            monitor.AfterRollout(s_healthy);

        Assert.Equal(
            "The end rate fell from 0.750 to 0.438: not to end costs nothing. Set UnfinishedScore or UnfinishedPenalty, or raise " +
            "KlCoefficient.", Assert.Single(monitor.AfterRollout(s_healthy with { Ended = Rate(0.4375) })).Message);
    }

    [Fact]
    public void A_logged_alarm_is_raised_when_it_begins_and_again_only_after_ten_updates_without_it()
    {
        var monitor = new PolicyMonitor(new PolicyOptions());
        var sick = Sick(AlarmKind.HighKl);

        int[] Raised(int updates, Func<int, bool> isSick) => [.. Enumerable.Range(0, updates).Where(
            i => monitor.AfterRollout(isSick(i) ? sick : s_healthy).Any(a => a.Kind == AlarmKind.HighKl))];

        Assert.Equal([5], Raised(40, i => i >= 5));
        Assert.Empty(Raised(40, i => i % 10 == 9)); // comes and goes: the first one was said
        Assert.Equal([10], Raised(11, i => i == 10));
    }

    [Fact]
    public void An_alarm_that_is_acted_on_is_raised_each_time_and_its_responses_are_forgotten()
    {
        var monitor = Watching(AlarmKind.FallingEndRate, AlarmPolicy.RollBack);
        RolloutMeasures half = s_healthy with { Ended = Rate(0.75, of: 64), Score = Around(0.2, 0.5, of: 64) };
        for (int i = 0; i < 4; i++)
            Assert.Empty(monitor.AfterRollout(half));

        for (int i = 0; i < 2; i++)
        {
            Assert.Single(monitor.AfterRollout(half with { Ended = Rate(0, of: 64) }));
            Assert.Empty(monitor.AfterRollout(half)); // of the 128 responses, none are those that were given up
        }
    }

    [Fact]
    public void What_is_ignored_is_not_looked_for()
    {
        var monitor = new PolicyMonitor(new PolicyOptions { Alarms = new AlarmOptions { Policy = AlarmPolicy.Ignore } });
        for (int i = 0; i < 4; i++)
            monitor.AfterRollout(s_healthy);

        foreach (var kind in Enum.GetValues<AlarmKind>())
            Assert.Empty(monitor.AfterRollout(Sick(kind)));
        Assert.Empty(monitor.AfterSteps(1, 1e9, double.NaN));
        Assert.Empty(monitor.NonFiniteGradient(double.NaN));
    }

    [Fact]
    public void The_thresholds_are_the_options()
    {
        var strict = new AlarmOptions
        {
            MaxKl = 0.5, MinEntropy = 3, MaxLengthZScore = 0.2, MaxEndRateFall = 0.01, MaxClipFraction = 0.1, MaxRatioMean = 1.5,
        };
        var monitor = new PolicyMonitor(new PolicyOptions { Alarms = strict });
        var alarms = new List<TrainingAlarm>();
        foreach (var (length, rate) in new[] { (10.0, 0.8), (10.0, 0.8), (11.0, 0.75) })
            alarms.AddRange(monitor.AfterRollout(
                s_healthy with { Length = Around(length, 4, of: 10_000), Ended = Rate(rate, of: 10_000) }));
        alarms.AddRange(monitor.AfterSteps(0.11, 1.6, 0));

        Assert.Equal(
        [
            AlarmKind.HighKl, AlarmKind.LowEntropy, AlarmKind.LengthDrift, AlarmKind.FallingEndRate, AlarmKind.HighClipFraction,
            AlarmKind.HighRatioMean,
        ], alarms.Select(a => a.Kind).Distinct().Order());
    }

    [Theory]
    [InlineData(128, 2)]
    [InlineData(100, 4)]
    [InlineData(1, 256)]
    public void A_long_run_keeps_two_windows_and_still_compares_with_the_best_that_was(int episodesPerUpdate, int remembered)
    {
        var monitor = Watching(AlarmKind.FallingEndRate, AlarmPolicy.Log);
        RolloutMeasures Ending(double rate) => s_healthy with
        {
            Ended = Around(rate, Math.Sqrt(rate * (1 - rate)), of: episodesPerUpdate), Score = Around(0.2, 0.5, of: episodesPerUpdate),
        };
        int window = remembered / 2;
        for (int i = 0; i < window; i++)
            Assert.Empty(monitor.AfterRollout(Ending(0.75)));
        for (int i = 0; i < 1000; i++)
        {
            Assert.Empty(monitor.AfterRollout(Ending(0.6)));
            Assert.InRange(monitor.Remembered, 1, remembered);
        }

        var alarms = Enumerable.Range(0, window).SelectMany(_ => monitor.AfterRollout(Ending(0.3))).ToList();

        Assert.StartsWith("The end rate fell from 0.750 to ", Assert.Single(alarms).Message);
        Assert.Equal(remembered, monitor.Remembered);
    }

    /// <summary>A policy at its reference: Σ k1 ~ N(δ, 2δ), and nothing else moves either.</summary>
    [Theory]
    [InlineData(8)]
    [InlineData(64)]
    [InlineData(512)]
    public void Chance_raises_no_alarm(int episodesPerUpdate)
    {
        var random = new RandomStream(1, key: (ulong)episodesPerUpdate);
        double Normal() => Math.Sqrt(-2 * Math.Log(1 - random.NextSingle())) * Math.Cos(2 * Math.PI * random.NextSingle());
        double[] Draw(Func<double> one) => [.. Enumerable.Range(0, episodesPerUpdate).Select(_ => one())];
        var monitor = new PolicyMonitor(new PolicyOptions());

        for (int update = 0; update < 100_000 / episodesPerUpdate; update++)
        {
            double[] scores = Draw(() => random.NextSingle() < 0.3 ? 1 : 0);
            Assert.Empty(monitor.AfterRollout(new RolloutMeasures(
                Sample.Of(Draw(() => 1e-3 + Math.Sqrt(2e-3) * Normal())), Entropy: 2, Sample.Of(Draw(() => 1 + random.NextInt32(30))),
                Sample.Of(Draw(() => random.NextSingle() < 0.9 ? 1 : 0)), Sample.Of(scores), (scores.Min(), scores.Max()),
                Sample.Of(Draw(Normal)))));
        }
    }

    [Fact]
    public void Samples_add_up()
    {
        double[] all = [3, 1, 4, 1, 5, 9, 2, 6];

        var sum = Sample.Of(all[..3]) + Sample.Of(all[3..]);

        Close.Assert(all.Average(), sum.Mean, relative: 1e-12);
        Close.Assert(Math.Sqrt(all.Average(x => (x - all.Average()) * (x - all.Average()))), sum.Deviation, relative: 1e-12);
        Close.Assert(sum.Deviation / Math.Sqrt(8), sum.Error, relative: 1e-12);
    }

    private static PolicyMonitor Watching(AlarmKind kind, AlarmPolicy policy) =>
        new(new PolicyOptions { Alarms = TinyAlarms.Only(kind, policy) });

    private static Sample Around(double mean, double deviation, int of = 128) => new(of, mean, deviation * deviation * of);

    private static Sample Rate(double rate, int of = 128) => Sample.Of([.. Enumerable.Range(0, of).Select(i => i < rate * of ? 1.0 : 0.0)]);
}
