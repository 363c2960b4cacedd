using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Kernels;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Training;

public class PpoTrainingTests
{
    /// <summary>Six prompts, ragged responses, one update of one step.</summary>
    private static readonly PolicyOptions s_oneStep = new()
    {
        Episodes = 12, EpisodesPerUpdate = 12, EpochsPerUpdate = 1, MaxResponseTokens = 8, LearningRate = 1e-3,
    };

    [Theory]
    [InlineData(1.0)]
    [InlineData(0.7)]
    [InlineData(1.6)]
    public void At_the_first_step_nothing_has_moved_yet(double temperature)
    {
        var report = Assert.Single(new TinyPpo(s_oneStep with { Temperature = temperature }).Run().Recorded.Updates);

        Close.Assert(0, report.Kl, absolute: 1e-6);
        Close.Assert(0, report.ApproximateKl, absolute: 1e-10);
        Assert.Equal(0, report.PolicyClipFraction);
        Assert.Equal(0, report.ValueClipFraction);
        Close.Assert(1, report.RatioMean, absolute: 1e-5);
        Close.Assert(1, report.RatioMinimum, absolute: 1e-4);
        Close.Assert(1, report.RatioMaximum, absolute: 1e-4);
        Close.Assert(0, report.PolicyLoss, absolute: 1e-5); // −E[whitened A · 1]
        Assert.InRange(report.LogProbDrift, 0, 1e-4);
        Assert.InRange(report.EndRate, 0.01, 0.99); // else nothing of this was about ragged responses
    }

    [Fact]
    public void In_bfloat16_nothing_has_moved_at_the_first_step_and_the_reward_rises_as_in_float32()
    {
        Assert.SkipUnless(MicroKernel.IsSupported, "This processor does not multiply bfloat16 numbers.");

        var first = Assert.Single(Run(s_oneStep).Updates);
        var options = new PolicyOptions
        {
            Episodes = 20 * 32, EpisodesPerUpdate = 32, MaxResponseTokens = 6, LearningRate = 5e-3, UnfinishedScore = null,
            KlCoefficient = 0.01,
        };
        var float32 = new TinyPpo(options, policy: WithKernels()).Run().Recorded.Updates.ToArray();
        var bfloat16 = Run(options);

        Close.Assert(0, first.Kl, absolute: 1e-6);
        Close.Assert(1, first.RatioMinimum, absolute: 1e-4);
        Close.Assert(1, first.RatioMaximum, absolute: 1e-4);
        Assert.InRange(first.LogProbDrift, 1e-6, 0.1); // another computation than float32's, and near it
        Assert.InRange(float32[0].Score, 0, 0.2);
        Assert.InRange(float32[^1].Score, 0.6, 1);
        Assert.InRange(bfloat16.Updates.Last().Score, 0.6, 1);
        Assert.DoesNotContain(bfloat16.Warnings, w => w.Contains("log-probability", StringComparison.Ordinal)); // no drift beyond rounding

        static RecordedRun Run(PolicyOptions options) =>
            new TinyPpo(options with { Precision = Precision.BFloat16 }, policy: WithKernels()).Run().Recorded;

        static Gpt WithKernels() => TinyGpt.Fresh(architecture: TinyGpt.Architecture with { Width = 32 }); // heads of 16
    }

    [Fact]
    public void A_zero_head_gives_the_value_0_and_explains_nothing()
    {
        var policy = TinyGpt.Random();
        var ppo = new TinyPpo(s_oneStep, policy: policy, value: new ScalarGpt(policy.Clone(), generator: null));
        var statistics = new PpoTraining.Statistics();

        var episodes = ppo.Sample(5);
        var rollout = ppo.Training.Evaluate(episodes, [3, 1, 4, 1, 5], statistics);

        Close.Assert(zeros_like(rollout.Values), rollout.Values);
        Close.Assert(0, statistics.ExplainedVariance, absolute: 1e-5);
    }

    [Fact]
    public void The_report_is_what_the_episodes_say()
    {
        List<Episode> seen = [];
        double[] Scores(IReadOnlyList<Episode> episodes)
        {
            seen.AddRange(episodes);
            return [.. episodes.Select(e => (double)e.Response.Length)];
        }

        var ppo = new TinyPpo(s_oneStep with { UnfinishedScore = -3 }, scorer: Scores).Run();

        var report = Assert.Single(ppo.Recorded.Updates);
        double[] scores = [.. seen.Select(e => e.Ended ? e.Response.Length : -3.0)];
        Assert.Equal(12, seen.Count);
        Close.Assert(scores.Average(), report.Score, relative: 1e-12);
        Close.Assert(Math.Sqrt(scores.Average(s => Math.Pow(s - scores.Average(), 2))), report.ScoreDeviation, relative: 1e-9);
        Close.Assert(seen.Average(e => e.Response.Length), report.ResponseLength, relative: 1e-12);
        Close.Assert(seen.Count(e => e.Ended) / 12.0, report.EndRate, relative: 1e-12);
        Close.Assert(report.Score - report.KlCoefficient * report.Kl, report.RlhfReward, absolute: 1e-12);
        Assert.All(seen, e => Assert.Equal(e.Ended, e.Response[^1] == TinyPpo.EndToken));
        Assert.All(seen, e => Assert.Equal(e.Response.Length, e.SampledLogProbs.Length));
        Assert.Equal(("Test", 1, 1), (report.Stage, report.Step, report.TotalSteps));
        TimeSpan[] phases = [report.SamplingTime, report.ScoringTime, report.EvaluationTime, report.LearningTime];
        Assert.All(phases, phase => Assert.True(phase > TimeSpan.Zero));
        Assert.InRange(phases.Sum(phase => phase.TotalSeconds), 0, report.Elapsed.TotalSeconds);
        Assert.Equal(TimeSpan.Zero, report.Remaining);
    }

    /// <summary>Everything that <c>Evaluate</c> computes in batches, once more: row by row, token by token, in C#.</summary>
    [Fact]
    public void A_rollout_equals_the_definitions_written_out_row_by_row()
    {
        using var noGrad = no_grad();
        var options = s_oneStep with { KlCoefficient = 0.3, Gamma = 0.97, Lambda = 0.9, Temperature = 0.8, MicroBatchSize = 3 };
        var ppo = new TinyPpo(options);
        foreach (var parameter in ppo.Reference.parameters())
            parameter.mul_(0.9); // so that there is a KL
        var episodes = ppo.Sample(7, temperature: 0.8f);
        double[] scores = [.. episodes.Select((_, i) => i - 2.5)];

        var statistics = new PpoTraining.Statistics();
        var rollout = ppo.Training.Evaluate(episodes, scores, statistics);

        List<double> advantages = [], kls = [];
        List<(int Row, int T)> places = [];
        for (int row = 0; row < episodes.Length; row++)
        {
            var e = episodes[row];
            var text = tensor([.. e.Prompt.Concat(e.Response).Select(t => (long)t)]).unsqueeze(0);
            double[] logProbs = LogProbs(ppo.Policy, text, e), reference = LogProbs(ppo.Reference, text, e);
            double[] values = [.. ppo.Value.Scores(text)[0].data<float>().ToArray()[(e.Prompt.Length - 1)..^1].Select(v => (double)v)];
            double[] rewards = [.. logProbs.Zip(reference, (p, r) => -0.3 * (p - r))];
            rewards[^1] += scores[row];
            kls.Add(logProbs.Zip(reference, (p, r) => p - r).Sum());

            int length = e.Response.Length;
            var advantage = new double[length];
            for (int t = length - 1; t >= 0; t--)
            {
                double next = t + 1 < length ? values[t + 1] : 0;
                advantage[t] = rewards[t] + 0.97 * next - values[t] + (t + 1 < length ? 0.97 * 0.9 * advantage[t + 1] : 0);
                Close.Assert(logProbs[t], rollout.LogProbs[row, t].ToDouble(), absolute: 1e-4, what: "log-probability");
                Close.Assert(values[t], rollout.Values[row, t].ToDouble(), absolute: 1e-4, what: "value");
                Close.Assert(advantage[t] + values[t], rollout.Returns[row, t].ToDouble(), relative: 1e-4, absolute: 1e-4, what: "return");
            }
            advantages.AddRange(advantage);
            places.AddRange(Enumerable.Range(0, length).Select(t => (row, t)));
        }

        double mean = advantages.Average(), deviation = Math.Sqrt(advantages.Average(a => (a - mean) * (a - mean)));
        foreach (var (advantage, (row, t)) in advantages.Zip(places))
            Close.Assert((advantage - mean) / deviation, rollout.Advantages[row, t].ToDouble(), relative: 1e-3, absolute: 1e-3,
                what: "advantage");
        Close.Assert(kls.Average(), statistics.Kl, relative: 1e-4);
        Assert.True(episodes.Select(e => e.Response.Length).Distinct().Count() > 1);

        double[] LogProbs(CausalLanguageModel model, Tensor text, Episode e)
        {
            var logits = model.Logits(model.Hidden(text))[0][(e.Prompt.Length - 1)..^1] / 0.8;
            return [.. LogProbabilities.OfTokens(logits, text[0][e.Prompt.Length..]).data<float>().ToArray().Select(p => (double)p)];
        }
    }

    [Fact]
    public void Every_parameter_of_policy_and_value_moves_and_the_reference_does_not()
    {
        var ppo = new TinyPpo(s_oneStep with
        {
            Episodes = 24, EpochsPerUpdate = 2, MinibatchesPerEpoch = 2, LearningRateDecay = LearningRateDecay.Constant,
        });
        var policy = TinyGpt.Snapshot(ppo.Policy);
        var value = TinyGpt.Snapshot(ppo.Value);
        var reference = TinyGpt.Snapshot(ppo.Reference);

        ppo.Run();

        Assert.All(ppo.Policy.named_parameters(),
            p => Assert.True(Close.Distance(policy[p.name], p.parameter) > 1e-5, $"policy's {p.name} did not move"));
        Assert.All(ppo.Value.named_parameters(),
            p => Assert.True(Close.Distance(value[p.name], p.parameter) > 1e-5, $"value's {p.name} did not move"));
        Assert.All(ppo.Reference.named_parameters(), p => Close.Assert(reference[p.name], p.parameter, what: p.name));
        Assert.All(ppo.Reference.parameters(), p => Assert.False(p.requires_grad));
        Assert.Equal(0, ppo.Recorded.Updates.First().Kl, tolerance: 1e-6);
        Assert.NotEqual(0, ppo.Recorded.Updates.Last().Kl, tolerance: 1e-6);
    }

    [Fact]
    public void After_a_run_policy_value_and_reference_share_no_storage()
    {
        var ppo = new TinyPpo(s_oneStep).Run();
        nn.Module[] networks = [ppo.Policy, ppo.Value, ppo.Reference];
        var before = networks.Select(TinyGpt.Snapshot).ToArray();

        for (int changed = 0; changed < networks.Length; changed++)
        {
            using (no_grad())
                foreach (var parameter in networks[changed].parameters())
                    parameter.fill_(changed);

            for (int other = changed + 1; other < networks.Length; other++)
                Assert.All(networks[other].named_parameters(), p => Close.Assert(before[other][p.name], p.parameter, what: p.name));
        }
        Assert.All(networks.SelectMany(n => n.parameters()), p => Assert.Equal(0, p.storage_offset()));
    }

    [Fact]
    public void A_toy_reward_rises_and_a_large_kl_coefficient_holds_the_policy_back()
    {
        var options = new PolicyOptions
        {
            Episodes = 20 * 32, EpisodesPerUpdate = 32, MaxResponseTokens = 6, LearningRate = 5e-3, UnfinishedScore = null,
            KlCoefficient = 0.01,
        };
        var free = new TinyPpo(options, policy: TinyGpt.Fresh()).Run().Recorded.Updates.ToArray();
        var held = new TinyPpo(options with { KlCoefficient = 10 }, policy: TinyGpt.Fresh()).Run().Recorded.Updates.ToArray();

        Assert.InRange(free[0].Score, 0, 0.15); // 1 in 19 by chance
        Assert.InRange(free[^1].Score, 0.6, 1);
        Assert.InRange(free[^1].Kl, 2, double.PositiveInfinity);
        Assert.InRange(held[^1].Kl, -0.05, 0.3);
        Assert.InRange(held[^1].Score, 0, 0.25);
        Assert.All(free.Concat(held), u => Assert.InRange(u.LogProbDrift, 0, 1e-3));
        Assert.True(free[^1].Entropy < free[0].Entropy);
    }

    [Fact]
    public void An_unfinished_response_gets_the_penalty_in_place_of_its_score_or_keeps_it()
    {
        double[] Eleven(IReadOnlyList<Episode> episodes) => [.. episodes.Select(_ => 11.0)];

        var replaced = new TinyPpo(s_oneStep with { UnfinishedScore = -1 }, scorer: Eleven).Run().Recorded.Updates.Single();
        var kept = new TinyPpo(s_oneStep with { UnfinishedScore = null }, scorer: Eleven).Run().Recorded.Updates.Single();

        Close.Assert(11 * replaced.EndRate - (1 - replaced.EndRate), replaced.Score, relative: 1e-9);
        Assert.Equal(11, kept.Score);
    }

    [Theory]
    [InlineData(double.NaN)]
    [InlineData(double.NegativeInfinity)]
    public void A_reward_that_is_not_finite_is_refused_with_the_fix(double bad)
    {
        var ppo = new TinyPpo(s_oneStep, scorer: episodes => [.. episodes.Select((_, i) => i == 3 ? bad : 0)]);

        var error = Assert.Throws<InvalidOperationException>(() => ppo.Run());

        Assert.Contains("Check the reward model or function", error.Message);
    }

    [Fact]
    public void Prompts_come_round_again_in_a_new_order_and_a_run_is_as_long_as_asked_for()
    {
        List<string> prompts = [];
        var ppo = new TinyPpo(
            s_oneStep with { Episodes = 10, EpisodesPerUpdate = 4 },
            scorer: episodes =>
            {
                prompts.AddRange(episodes.Select(e => string.Join(' ', e.Prompt)));
                return TinyPpo.TreatRate(episodes);
            });

        ppo.Run();

        Assert.Equal(3, ppo.Recorded.Reports.Count); // 10 episodes are two updates and a half
        Assert.Equal(12, prompts.Count);
        Assert.Equal(6, prompts.Take(6).Distinct().Count());
        Assert.Equal(prompts.Take(6).Order(), prompts.Skip(6).Order());
        Assert.NotEqual(prompts.Take(6), prompts.Skip(6));
    }

    [Fact]
    public void Dropout_is_off_throughout()
    {
        var policy = TinyGpt.Random();
        policy.Dropout = 0.5;
        policy.train();

        var report = new TinyPpo(s_oneStep, policy: policy).Run().Recorded.Updates.Single();

        Close.Assert(0, report.Kl, absolute: 1e-6);
        Assert.InRange(report.LogProbDrift, 0, 1e-4);
    }

    [Fact]
    public void The_entropy_bonus_raises_entropy()
    {
        double Entropy(double coefficient) => new TinyPpo(
            s_oneStep with { Episodes = 10 * 12, EntropyCoefficient = coefficient, KlCoefficient = 0, LearningRate = 3e-3 },
            scorer: episodes => new double[episodes.Count]).Run().Recorded.Updates.Last().Entropy;

        Assert.True(Entropy(1) > Entropy(0) + 0.05);
    }

    /// <summary>The sum over the vocabulary and the sampled log-ratio estimate the same number; the first has less noise.</summary>
    [Fact]
    public void The_divergence_of_episodes_has_the_mean_of_the_sampled_log_ratios()
    {
        using var noGrad = no_grad();
        var ppo = new TinyPpo(s_oneStep);
        Assert.All(PolicyDivergence.PerEpisode(ppo.Policy, ppo.Reference, ppo.Sample(5), temperature: 1),
            d => Close.Assert(0, d, absolute: 1e-5));
        foreach (var parameter in ppo.Reference.parameters())
            parameter.mul_(0.7);
        var episodes = ppo.Sample(2000);

        double[] divergences = PolicyDivergence.PerEpisode(ppo.Policy, ppo.Reference, episodes, temperature: 1);
        var statistics = new PpoTraining.Statistics();
        ppo.Training.Evaluate(episodes, new double[episodes.Length], statistics);

        Assert.All(divergences, d => Assert.True(d > 0));
        Close.Assert(statistics.Kl, divergences.Average(), relative: 0.1);
    }
}
