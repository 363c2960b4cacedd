using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Training;

/// <summary>GRPO and RLOO, which compare responses to the same prompt.</summary>
public class GroupTrainingTests
{
    public static TheoryData<string> Trainers => ["GRPO", "RLOO"];

    /// <summary>Three prompts with four responses each, one update of one step.</summary>
    private static GroupHyperparameters OneStep(string trainer) => trainer == "GRPO" ? s_grpo : s_rloo;

    private static readonly GrpoTestOptions s_grpo = new()
    {
        Episodes = 12, EpisodesPerUpdate = 12, GroupSize = 4, MaxResponseTokens = 8, LearningRate = 1e-3,
    };

    private static readonly RlooTestOptions s_rloo = new()
    {
        Episodes = 12, EpisodesPerUpdate = 12, GroupSize = 4, MaxResponseTokens = 8, LearningRate = 1e-3,
    };

    [Theory]
    [InlineData("GRPO", 1.0)]
    [InlineData("GRPO", 0.7)]
    [InlineData("GRPO", 1.6)]
    [InlineData("RLOO", 1.0)]
    [InlineData("RLOO", 0.7)]
    [InlineData("RLOO", 1.6)]
    public void At_the_first_step_nothing_has_moved_yet(string trainer, double temperature)
    {
        var options = OneStep(trainer) with { Temperature = temperature };
        if (options is GrpoTestOptions grpo)
            options = grpo with { LossType = GrpoLossType.Grpo };

        var report = Assert.Single(new TinyGroup(options).Run().Updates);

        Close.Assert(0, report.Kl, absolute: 1e-6);
        Close.Assert(0, report.ApproximateKl, absolute: 1e-10);
        Assert.Equal(0, report.PolicyClipFraction);
        Close.Assert(1, report.RatioMean, absolute: 1e-5);
        Close.Assert(1, report.RatioMinimum, absolute: 1e-4);
        Close.Assert(1, report.RatioMaximum, absolute: 1e-4);
        Close.Assert(0, report.PolicyLoss, absolute: 1e-5); // the advantages of a group sum to 0
        Close.Assert(0, report.Loss, absolute: 1e-5);       // and there is no divergence yet
        Assert.True(report.GradientNorm > 1e-3);
        Assert.InRange(report.LogProbDrift, 0, 1e-4);
        Assert.InRange(report.EndRate, 0.01, 0.99); // else nothing of this was about ragged responses
    }

    [Theory]
    [MemberData(nameof(Trainers))]
    public void Responses_to_a_prompt_stand_side_by_side_and_groups_of_equal_scores_are_counted(string trainer)
    {
        List<Episode> seen = [];
        double[] Scores(IReadOnlyList<Episode> episodes)
        {
            seen.AddRange(episodes);
            return [.. episodes.Select((_, i) => i < 4 ? 1 : (double)i)]; // one group of three scores the same throughout
        }

        var report = new TinyGroup(OneStep(trainer) with { UnfinishedScore = null }, scorer: Scores).Run().Updates.Single();

        Assert.Equal(3, seen.Select(e => string.Join(' ', e.Prompt)).Distinct().Count());
        Assert.All(seen.Chunk(4), group => Assert.Single(group.Select(e => string.Join(' ', e.Prompt)).Distinct()));
        Assert.All(seen.Chunk(4), group => Assert.NotEmpty(group.Select(e => string.Join(' ', e.Response)).Distinct().Skip(1)));
        Close.Assert(1 / 3.0, report.EqualGroupRate, relative: 1e-12);
    }

    [Theory]
    [MemberData(nameof(Trainers))]
    public void Groups_of_equal_scores_teach_nothing(string trainer)
    {
        var options = OneStep(trainer) with { KlCoefficient = 0, Episodes = 24, UnfinishedScore = null };
        var run = new TinyGroup(options, scorer: episodes => [.. episodes.Select(_ => 0.1)]);
        var before = TinyGpt.Snapshot(run.Policy);

        run.Run();

        Assert.All(run.Updates, u => Assert.Equal((0, 1), (u.GradientNorm, u.EqualGroupRate)));
        Assert.All(run.Policy.named_parameters(), p => Close.Assert(before[p.name], p.parameter, what: p.name));
    }

    [Theory]
    [MemberData(nameof(Trainers))]
    public void Every_parameter_of_the_policy_moves_and_the_reference_does_not(string trainer)
    {
        var run = new TinyGroup(OneStep(trainer) with
        {
            Episodes = 24, EpochsPerUpdate = 2, MinibatchesPerEpoch = 2, LearningRateDecay = LearningRateDecay.Constant, KlCoefficient = 0,
        });
        var policy = TinyGpt.Snapshot(run.Policy);
        var reference = TinyGpt.Snapshot(run.Reference);

        run.Run();

        Assert.All(run.Policy.named_parameters(),
            p => Assert.True(Close.Distance(policy[p.name], p.parameter) > 1e-5, $"policy's {p.name} did not move"));
        Assert.All(run.Reference.named_parameters(), p => Close.Assert(reference[p.name], p.parameter, what: p.name));
        Assert.All(run.Reference.parameters(), p => Assert.False(p.requires_grad));
        Assert.Equal(0, run.Updates[0].Kl, tolerance: 1e-6);
        Assert.NotEqual(0, run.Updates[1].Kl, tolerance: 1e-6); // reported though its coefficient is 0
        Assert.All(run.Updates, u => Assert.Equal(4, u.OptimizerSteps));
    }

    [Theory]
    [MemberData(nameof(Trainers))]
    public void A_toy_reward_rises_and_a_large_kl_coefficient_holds_the_policy_back(string trainer)
    {
        var options = OneStep(trainer) with
        {
            Episodes = 20 * 32, EpisodesPerUpdate = 32, EpochsPerUpdate = 4, MaxResponseTokens = 6, LearningRate = 5e-3,
            UnfinishedScore = null, KlCoefficient = 0.01,
        };

        var free = new TinyGroup(options, policy: TinyGpt.Fresh()).Run().Updates;
        var held = new TinyGroup(options with { KlCoefficient = 10 }, policy: TinyGpt.Fresh()).Run().Updates;

        Assert.InRange(free[0].Score, 0, 0.15); // 1 in 19 by chance
        Assert.InRange(free[^1].Score, 0.6, 1);
        Assert.InRange(free[^1].Kl, 2, double.PositiveInfinity);
        Assert.InRange(held[^1].Kl, -0.05, 0.3);
        Assert.InRange(held[^1].Score, 0, 0.25);
        Assert.All(free.Concat(held), u => Assert.InRange(u.LogProbDrift, 0, 1e-3));
        Assert.True(free[^1].Entropy < free[0].Entropy);
    }

    [Theory]
    [MemberData(nameof(Trainers))]
    public void An_update_ends_before_the_step_that_finds_the_policy_too_far_away(string trainer)
    {
        var options = OneStep(trainer) with { EpochsPerUpdate = 8, MaxUpdateKl = 1e-9 };

        var ended = new TinyGroup(options).Run();
        var single = new TinyGroup(options with { EpochsPerUpdate = 1 }).Run();

        Assert.Equal(8, new TinyGroup(options with { MaxUpdateKl = 1e9 }).Run().Updates.Single().OptimizerSteps);
        Assert.Equal((1, 1), (ended.Updates.Single().OptimizerSteps, single.Updates.Single().OptimizerSteps));
        Assert.True(ended.Updates.Single().ApproximateKl > 0); // the step that was left out is what was measured
        Assert.All(single.Policy.named_parameters(), p => Close.Assert(p.parameter, ended.Policy.get_parameter(p.name)!, what: p.name));
    }

    /// <summary>Bnpo and Dapo differ in the part of the update that a token of a short minibatch has.</summary>
    [Fact]
    public void With_Dapo_every_token_of_the_update_counts_the_same()
    {
        double Loss(GrpoLossType type, int minibatches) => new TinyGroup(
            s_grpo with { LossType = type, MinibatchesPerEpoch = minibatches, LearningRate = 1e-12 }).Run().Updates.Single().Loss;

        double whole = Loss(GrpoLossType.Dapo, minibatches: 1);
        Assert.True(Math.Abs(whole) > 1e-3);
        Close.Assert(whole, Loss(GrpoLossType.Bnpo, minibatches: 1), relative: 1e-5);
        Close.Assert(whole, Loss(GrpoLossType.Dapo, minibatches: 5), relative: 1e-5);
        Assert.True(Math.Abs(whole - Loss(GrpoLossType.Bnpo, minibatches: 5)) > 1e-3);
    }

    public static TheoryData<GrpoLossType, AdvantageScaling, bool> GrpoVariants => new()
    {
        { GrpoLossType.Grpo, AdvantageScaling.Group, false },
        { GrpoLossType.Bnpo, AdvantageScaling.Group, false },
        { GrpoLossType.DrGrpo, AdvantageScaling.None, false },
        { GrpoLossType.Dapo, AdvantageScaling.Batch, false },
        { GrpoLossType.Grpo, AdvantageScaling.Group, true },
        { GrpoLossType.Dapo, AdvantageScaling.Group, true },
    };

    /// <summary>A minibatch of an update, after the policy has moved: everything once more, row by row, from the definitions.</summary>
    [Theory]
    [MemberData(nameof(GrpoVariants))]
    public void The_gradient_of_GRPO_equals_the_definition_written_out_row_by_row(
        GrpoLossType type, AdvantageScaling scaling, bool maskUnfinished)
    {
        var options = s_grpo with
        {
            LossType = type, AdvantageScaling = scaling, MaskUnfinished = maskUnfinished, KlCoefficient = 0.3, Temperature = 0.8,
            MinibatchesPerEpoch = 2, MicroBatchSize = 2, ClipRangeHigh = 0.28,
        };
        var run = new TinyGroup(options);
        Disturb(run.Reference, 0.9);
        var (training, episodes, scores) = (run.Grpo, run.Sample(), Scores(12));
        var rollout = training.Evaluate(episodes, scores, new UpdateStatistics());
        double[][] old = [.. episodes.Select(e => Numbers(LogProbs(run.Policy, e)))];
        Disturb(run.Policy, 1.05);
        int[] rows = [7, 2, 11, 0, 5, 4];
        bool Counts(int row) => !maskUnfinished || episodes[row].Ended;
        double tokensPerStep = Enumerable.Range(0, 12).Where(Counts).Sum(row => episodes[row].Response.Length) / 2.0;
        var statistics = new UpdateStatistics();

        training.AccumulateGradients(rollout, rows, statistics);

        double[] advantages = [.. scores.Chunk(4).SelectMany(group => group.Select(score => (score - group.Average()) / (scaling switch
        {
            AdvantageScaling.Group => Deviation(group) + 1e-4,
            AdvantageScaling.Batch => Deviation(scores) + 1e-4,
            _ => 1,
        })))];
        var total = zeros(1);
        int clipped = 0, tokens = 0;
        foreach (int row in rows)
        {
            var logProbs = LogProbs(run.Policy, episodes[row]);
            double[] reference = Numbers(LogProbs(run.Reference, episodes[row]));
            int length = episodes[row].Response.Length;
            double divisor = type switch
            {
                GrpoLossType.Grpo => 6.0 * length,
                GrpoLossType.Bnpo => rows.Where(Counts).Sum(r => episodes[r].Response.Length),
                GrpoLossType.DrGrpo => 6.0 * 8,
                _ => tokensPerStep,
            };
            for (int t = 0; t < length; t++)
            {
                var ratio = (logProbs[t] - old[row][t]).exp();
                var plain = ratio * advantages[row];
                var bounded = ratio.clamp(0.8, 1.28) * advantages[row];
                var difference = reference[t] - logProbs[t];
                var penalty = difference.exp() - 1 - difference;
                tokens++;
                clipped += bounded.ToDouble() < plain.ToDouble() ? 1 : 0;
                if (Counts(row))
                    total = total + (0.3 * penalty - minimum(plain, bounded)) / divisor;
            }
        }
        AssertGradients(run.Policy, total);
        Close.Assert(total.ToDouble(), statistics.Loss, relative: 1e-4, absolute: 1e-5, what: "loss");
        Close.Assert(clipped / (double)tokens, statistics.PolicyClipFraction, relative: 1e-6, what: "clip fraction");
        Assert.InRange(clipped, 1, tokens - 1);
        Assert.Contains(episodes, e => e.Ended);
        Assert.Contains(episodes, e => !e.Ended);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void The_gradient_of_RLOO_equals_the_definition_written_out_row_by_row(bool normalize)
    {
        var options = s_rloo with
        {
            NormalizeAdvantages = normalize, KlCoefficient = 0.3, Temperature = 0.8, MinibatchesPerEpoch = 2, MicroBatchSize = 2,
        };
        var run = new TinyGroup(options);
        Disturb(run.Reference, 0.9);
        var (training, episodes, scores) = (run.Rloo, run.Sample(), Scores(12));
        var rollout = training.Evaluate(episodes, scores, new UpdateStatistics());
        double[][] old = [.. episodes.Select(e => Numbers(LogProbs(run.Policy, e)))];
        double[] rewards = [.. episodes.Select((e, i) =>
            scores[i] - 0.3 * old[i].Zip(Numbers(LogProbs(run.Reference, e)), (p, r) => p - r).Sum())];
        Disturb(run.Policy, 1.05);
        int[] rows = [7, 2, 11, 0, 5, 4];
        var statistics = new UpdateStatistics();

        training.AccumulateGradients(rollout, rows, statistics);

        double[] advantages = [.. rewards.Chunk(4).SelectMany(group => group.Select(reward => reward - (group.Sum() - reward) / 3))];
        if (normalize)
            advantages = [.. advantages.Select(a => a / (Deviation(advantages) + 1e-4))]; // their mean is 0
        var total = zeros(1);
        int clipped = 0;
        foreach (int row in rows)
        {
            var ratio = (LogProbs(run.Policy, episodes[row]).sum() - old[row].Sum()).exp();
            var (plain, bounded) = (ratio * advantages[row], ratio.clamp(0.8, 1.2) * advantages[row]);
            clipped += bounded.ToDouble() < plain.ToDouble() ? episodes[row].Response.Length : 0;
            total = total - minimum(plain, bounded) / 6;
        }
        AssertGradients(run.Policy, total);
        Close.Assert(total.ToDouble(), statistics.Loss, relative: 1e-4, absolute: 1e-5, what: "loss");
        int tokens = rows.Sum(row => episodes[row].Response.Length);
        Close.Assert(clipped / (double)tokens, statistics.PolicyClipFraction, relative: 1e-6, what: "clip fraction");
        Assert.InRange(clipped, 1, tokens - 1);
    }

    [Theory]
    [MemberData(nameof(Trainers))]
    public void Groups_must_fill_the_update_and_have_two_members(string trainer)
    {
        string Message(GroupHyperparameters options) => Assert.Throws<ArgumentException>(options.Validate).Message;

        Assert.Contains(
            "EpisodesPerUpdate is 12, but must be a multiple of GroupSize (5)", Message(OneStep(trainer) with { GroupSize = 5 }));
        Assert.Contains("GroupSize is 1, but must be at least 2", Message(OneStep(trainer) with { GroupSize = 1 }));
        Assert.Contains("ClipRangeHigh is 0, but must be above 0 or null", Message(OneStep(trainer) with { ClipRangeHigh = 0 }));
    }

    /// <summary>Scores without ties, whose groups differ in mean and spread.</summary>
    private static double[] Scores(int count) => [.. Enumerable.Range(0, count).Select(i => Math.Sin(7 * i) * (1 + i / 4) + i)];

    private static double Deviation(double[] numbers) =>
        Math.Sqrt(numbers.Sum(x => Math.Pow(x - numbers.Average(), 2)) / (numbers.Length - 1));

    private static void Disturb(nn.Module model, double factor)
    {
        using var noGrad = no_grad();
        foreach (var parameter in model.parameters())
            parameter.mul_(factor);
    }

    private static Tensor LogProbs(Gpt model, Episode e)
    {
        var text = tensor([.. e.Prompt.Concat(e.Response).Select(t => (long)t)]).unsqueeze(0);
        var logits = model.Logits(model.Hidden(text))[0][(e.Prompt.Length - 1)..^1] / 0.8;
        return LogProbabilities.OfTokens(logits, text[0][e.Prompt.Length..]);
    }

    private static double[] Numbers(Tensor tensor) => [.. tensor.detach().data<float>().ToArray().Select(x => (double)x)];

    /// <summary>Compares the gradients that a model has with those of a loss.</summary>
    private static void AssertGradients(Gpt model, Tensor loss)
    {
        var actual = model.named_parameters().ToDictionary(p => p.name, p => p.parameter.grad!.clone());
        foreach (var parameter in model.parameters())
            parameter.grad!.zero_();
        loss.backward();
        double largest = model.parameters().Max(p => p.grad!.abs().max().ToDouble());
        Assert.True(largest > 1e-3);
        Assert.All(model.named_parameters(),
            p => Close.Assert(p.parameter.grad!, actual[p.name], relative: 1e-4, absolute: 1e-4 * largest, what: p.name));
    }
}
