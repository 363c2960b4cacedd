using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Training;

/// <summary>What is particular to DPO, KTO and ORPO.</summary>
public class AlignerTrainingTests
{
    public static TheoryData<DpoLossType> Losses => [.. Enum.GetValues<DpoLossType>()];

    [Fact]
    public void The_log_probability_of_an_answer_is_the_sum_over_its_tokens_however_it_is_padded()
    {
        using var noGrad = no_grad();
        var model = TinyGpt.Random();
        var data = TinyData.Completions(rows: 9);

        float[] logProbs = AnswerBatch.LogProbs(model, data, new RecordedRun().Run);

        for (int row = 0; row < data.Count; row++)
        {
            long[] tokens = [.. data.Sequences[row].ToArray().Select(t => (long)t)];
            var perToken = LogProbabilities.OfTokens(model.Logits(model.Hidden(tensor(tokens[..^1]).unsqueeze(0)))[0], tensor(tokens[1..]));
            Close.Assert(perToken[(data.PromptLengths[row] - 1)..].sum().ToDouble(), logProbs[row], relative: 1e-5, what: $"row {row}");
        }
    }

    [Fact]
    public void Chosen_and_rejected_answers_share_a_batch()
    {
        using var noGrad = no_grad();
        var model = TinyGpt.Random();
        var pairs = TinyData.Preferences(rows: 6);
        var run = new RecordedRun().Run;
        float[] chosen = AnswerBatch.LogProbs(model, pairs.Chosen, run), rejected = AnswerBatch.LogProbs(model, pairs.Rejected, run);

        var batch = AnswerBatch.Create(pairs, [4, 1], CPU);

        Close.Assert(
            tensor(new[] { chosen[4], chosen[1], rejected[4], rejected[1] }), batch.LogProbs(model), relative: 1e-5, what: "log π");
        Close.Assert(
            tensor(new[] { 4, 1 }.Select(row => (float)pairs.Chosen.Sequences.Length(row) - pairs.Chosen.PromptLengths[row]).ToArray()),
            AnswerBatch.Halves(batch.Lengths).Chosen);
    }

    [Theory]
    [MemberData(nameof(Losses))]
    public void DPO_begins_at_its_reference_and_learns_the_pairs(DpoLossType loss)
    {
        var data = TinyData.Preferences(rows: 12);
        var model = TinyGpt.Fresh();
        var recorded = new RecordedRun();
        double smoothing = loss == DpoLossType.Robust ? 0.1 : 0;

        DpoTraining.Run(
            model, data, validation: data,
            new PairOptions { LossType = loss, LabelSmoothing = smoothing, BatchSize = 12, Epochs = 60, LearningRate = 3e-3 }, recorded.Run);

        var reports = recorded.Reports.Cast<PreferenceProgress>().ToArray();
        double start = loss switch { DpoLossType.Hinge => 1, DpoLossType.Ipo => 25, _ => Math.Log(2) };
        Close.Assert(start, reports[0].Loss, relative: 1e-5);
        Close.Assert(0, reports[0].ChosenReward, absolute: 1e-5);
        Close.Assert(0, reports[0].RejectedReward, absolute: 1e-5);
        Assert.Equal(1, reports[^1].RewardAccuracy);
        Assert.True(reports[^1].RewardMargin > 0.5, $"margin {reports[^1].RewardMargin}");
        Assert.True(reports[^1].ValidationLoss < 0.8 * start, $"validation loss {reports[^1].ValidationLoss}");
        Assert.True(reports[^1].ChosenLogProb > reports[^1].RejectedLogProb);
    }

    /// <summary>The reward is a ratio to where the model was, which is no longer there: a copy of it must say the same.</summary>
    [Fact]
    public void Rewards_are_beta_times_the_log_ratio_to_the_model_that_training_started_from()
    {
        var data = TinyData.Preferences(rows: 8);
        var model = TinyGpt.Random();
        using var start = model.Clone();
        var recorded = new RecordedRun();
        var run = new RecordedRun().Run;
        var options = new PairOptions { Beta = 0.3, BatchSize = 8, Epochs = 3, LearningRate = 1e-3 };
        PreferenceProgress? last = null;
        float[] before = [];
        var watching = new RecordedRun(onReport: p =>
        {
            last = (PreferenceProgress)p;
            if (p.Step == 2)
                before = AnswerBatch.LogProbs(model, data.Chosen, run); // as the third step finds it
        });

        DpoTraining.Run(model, data, validation: null, options, watching.Run);

        float[] reference = AnswerBatch.LogProbs(start, data.Chosen, run);
        Close.Assert(0.3 * before.Zip(reference, (a, b) => a - b).Average(), last!.ChosenReward, relative: 1e-4, absolute: 1e-5);
        Close.Assert(before.Average(), last.ChosenLogProb, relative: 1e-5);
    }

    [Fact]
    public void Label_smoothing_keeps_DPO_from_being_too_sure()
    {
        double Margin(double smoothing)
        {
            var recorded = new RecordedRun();
            DpoTraining.Run(
                TinyGpt.Fresh(), TinyData.Preferences(rows: 8), validation: null,
                new PairOptions { LabelSmoothing = smoothing, BatchSize = 8, Epochs = 100, LearningRate = 5e-3 }, recorded.Run);
            return ((PreferenceProgress)recorded.Reports[^1]).RewardMargin;
        }

        double smoothed = Margin(0.2);

        Assert.InRange(smoothed, 0.5, Math.Log(0.8 / 0.2) + 0.2); // where σ(margin) is 1 − ε, the smoothed loss is least
        Assert.True(Margin(0) > smoothed + 0.5);
    }

    [Fact]
    public void KTO_begins_at_its_reference_and_learns_the_labels()
    {
        var data = TinyData.Feedback(rows: 12);
        var model = TinyGpt.Fresh();
        var recorded = new RecordedRun();

        KtoTraining.Run(
            model, data, validation: data,
            new FeedbackOptions { DesirableWeight = 1.5, UndesirableWeight = 0.5, BatchSize = 12, Epochs = 60, LearningRate = 3e-3 },
            recorded.Run);

        var reports = recorded.Reports.Cast<KtoProgress>().ToArray();
        Close.Assert(0.5 * (4 * 1.5 + 8 * 0.5) / 12, reports[0].Loss, relative: 1e-5);
        Close.Assert(0, reports[0].Kl, absolute: 1e-5);
        Close.Assert(0, reports[0].DesirableReward!.Value, absolute: 1e-5);
        Assert.All(reports, report => Assert.True(report.Kl >= 0));
        Assert.True(reports[^1].RewardMargin > 0.5, $"margin {reports[^1].RewardMargin}");
        Assert.True(reports[^1].DesirableLogProb > reports[0].DesirableLogProb);
        Assert.True(reports[^1].UndesirableLogProb < reports[0].UndesirableLogProb);
        Assert.True(reports[^1].ValidationLoss < 0.8 * reports[0].Loss, $"validation loss {reports[^1].ValidationLoss}");
    }

    [Fact]
    public void A_KTO_step_without_undesirable_answers_says_so()
    {
        var recorded = new RecordedRun();
        var data = TinyData.Feedback(rows: 4) with { Desirable = [true, true, true, true] };

        KtoTraining.Run(TinyGpt.Fresh(), data, validation: null, new FeedbackOptions(), recorded.Run);

        var report = (KtoProgress)recorded.Reports.Single();
        Assert.NotNull(report.DesirableReward);
        Assert.Null(report.UndesirableReward);
        Assert.Null(report.UndesirableLogProb);
        Assert.Null(report.RewardMargin);
    }

    /// <summary>A matched pair would put the policy's learning itself into the reference point.</summary>
    [Fact]
    public void The_reference_point_comes_from_prompts_with_other_rows_answers_cut_at_the_context()
    {
        var model = TinyGpt.Fresh();
        int context = model.Architecture.ContextLength;
        var random = new RandomStream(3);
        var sequences = new TokenSequences();
        int[] prompts = [3, context - 2, 5, 4];
        foreach (int length in (int[])[9, context, 8, 20])
            sequences.Add(TinyData.Tokens(ref random, length));
        var answers = new CompletionData(sequences, prompts);

        var data = ReferencedFeedback.Create(model, new FeedbackData(answers, new bool[4]), new RecordedRun().Run);

        int[] answer(CompletionData of, int row) => of.Sequences[row][of.PromptLengths[row]..].ToArray();
        var used = new List<int>();
        for (int row = 0; row < 4; row++)
        {
            Assert.Equal(sequences[row][..prompts[row]], data.Mismatched.Sequences[row][..prompts[row]]);
            int other = Enumerable.Range(0, 4).Single(i =>
                answer(answers, i).AsSpan().StartsWith(answer(data.Mismatched, row)) && answer(data.Mismatched, row).Length
                    == Math.Min(answer(answers, i).Length, context - prompts[row]));
            Assert.NotEqual(row, other);
            used.Add(other);
        }
        Assert.Equal([0, 1, 2, 3], used.Order());
    }

    [Fact]
    public void ORPO_learns_the_chosen_answers_and_away_from_the_others()
    {
        var data = TinyData.Preferences(rows: 12);
        var recorded = new RecordedRun();

        OrpoTraining.Run(
            TinyGpt.Fresh(), data, validation: data,
            new OddsRatioOptions { Beta = 0.5, BatchSize = 12, Epochs = 60, LearningRate = 3e-3 }, recorded.Run);

        OrpoProgress first = (OrpoProgress)recorded.Reports[0], last = (OrpoProgress)recorded.Reports[^1];
        Close.Assert(Math.Log(19), first.ChosenLoss, absolute: 0.1);
        Close.Assert(Math.Log(19) + 0.5 * Math.Log(2), first.Loss, absolute: 0.1);
        Assert.True(last.ChosenLoss < 0.7 * first.ChosenLoss, $"loss of the chosen {last.ChosenLoss}");
        Assert.True(last.LogOddsRatio > 1, $"log odds ratio {last.LogOddsRatio}");
        Assert.True(last.RejectedLogProb < first.RejectedLogProb);
        Assert.Equal(1, last.RewardAccuracy);
        Close.Assert(0.5 * (last.ChosenLogProb - last.RejectedLogProb), last.RewardMargin, relative: 1e-5);
        Assert.True(last.ValidationLoss < last.Loss);
    }

    [Fact]
    public void The_loss_of_ORPO_is_the_token_mean_of_the_chosen_and_the_pair_mean_of_the_odds_ratio()
    {
        using var noGrad = no_grad();
        var data = TinyData.Preferences(rows: 7);
        var model = TinyGpt.Random();
        var run = new RecordedRun().Run;
        float[] Means(CompletionData answers) => [.. AnswerBatch.LogProbs(model, answers, run)
            .Select((sum, row) => sum / (answers.Sequences.Length(row) - answers.PromptLengths[row]))];
        var ratios = OrpoLoss.LogOddsRatio(tensor(Means(data.Chosen)), tensor(Means(data.Rejected)));
        double chosen = NextTokenLoss.Completions(model, data.Chosen).Mean;

        var recorded = new RecordedRun();
        using (enable_grad())
            OrpoTraining.Run(model, data, validation: null, new OddsRatioOptions { Beta = 0.3, MicroBatchSize = 3 }, recorded.Run);

        var report = (OrpoProgress)recorded.Reports.Single();
        Close.Assert(chosen, report.ChosenLoss, relative: 1e-5);
        Close.Assert(ratios.mean().ToDouble(), report.LogOddsRatio, relative: 1e-4);
        Close.Assert(chosen + 0.3 * OrpoLoss.OddsRatio(ratios).mean().ToDouble(), report.Loss, relative: 1e-5);
    }
}
