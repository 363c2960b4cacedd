using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Training;

/// <summary>What is particular to pretraining and fine-tuning.</summary>
public class SupervisedTrainingTests
{
    [Fact]
    public void Pretraining_learns_a_corpus_by_heart_and_leaves_the_model_ready_to_answer()
    {
        var corpus = new TokenSequences();
        for (int i = 0; i < 30; i++)
            corpus.Add(1, 2, 3, 4, 5, 6, 7);
        var model = TinyGpt.Fresh();
        var recorded = new RecordedRun();

        LanguageModelTraining.Run(
            model, corpus, validation: corpus,
            new PretrainingOptions { Steps = 60, BatchSize = 4, LearningRate = 1e-2, WarmupSteps = 5, Dropout = 0.05 },
            recorded.Run);

        Close.Assert(Math.Log(19), recorded.Reports[0].Loss, absolute: 0.1);
        Assert.InRange(recorded.Reports[^1].ValidationLoss!.Value, 0, 0.2); // but for the first token of each window
        Assert.Equal((false, 0.0), (model.training, model.Dropout));
    }

    [Fact]
    public void The_loss_of_a_corpus_counts_every_token_but_the_first_once()
    {
        using var noGrad = no_grad();
        var model = TinyGpt.Random();
        int context = model.Architecture.ContextLength;
        foreach (int length in (int[])[2, context, context + 1, context + 2, 40 * context + 1])
        {
            var corpus = TinyData.Sequences(rows: 1, length);
            long[] tokens = [.. corpus[0].ToArray().Select(t => (long)t)];

            var total = NextTokenLoss.Corpus(model, corpus);

            double expected = 0;
            for (int start = 0; start < length - 1; start += context)
            {
                int window = Math.Min(context, length - 1 - start);
                var ids = tensor(tokens[start..(start + window)]).unsqueeze(0);
                expected += NextTokenLoss.Sum(model, ids, positions: null, tensor(tokens[(start + 1)..(start + 1 + window)])).ToDouble();
            }
            Assert.Equal(length - 1, total.Count);
            Close.Assert(expected, total.Sum, relative: 1e-5);
        }
    }

    [Fact]
    public void A_corpus_shorter_than_the_context_is_one_window()
    {
        var corpus = TinyData.Sequences(rows: 1, length: 5);

        LanguageModelTraining.Run(
            TinyGpt.Fresh(), corpus, validation: null, new PretrainingOptions { Steps = 2, BatchSize = 2 }, new RecordedRun().Run);
    }

    [Fact]
    public void Windows_are_labelled_with_the_next_token()
    {
        var corpus = new TokenSequences();
        corpus.Add(10, 11, 12);
        corpus.Add(13, 14);

        var (ids, labels) = LanguageModelTraining.Windows(corpus, [0, 2], window: 2, CPU);

        Close.Assert(tensor(new long[,] { { 10, 11 }, { 12, 13 } }), ids);
        Assert.Equal([11, 12, 13, 14], labels.data<long>().ToArray());
    }

    [Fact]
    public void The_reported_loss_is_the_mean_over_the_labels_of_the_whole_batch()
    {
        var data = TinyData.Completions(rows: 6);
        foreach (bool learnPrompts in (bool[])[false, true])
        {
            var recorded = new RecordedRun();
            var model = TinyGpt.Random();
            double expected = learnPrompts
                ? MeanLoss(model, new CompletionData(data.Sequences, [1, 1, 1, 1, 1, 1]))
                : MeanLoss(model, data);

            SupervisedFineTuning.Run(
                model, data, validation: null,
                new SftOptions { BatchSize = 6, Epochs = 1, MicroBatchSize = 4, LearnPrompts = learnPrompts }, recorded.Run);

            Close.Assert(expected, recorded.Reports.Single().Loss, relative: 1e-5);
        }
    }

    [Fact]
    public void Only_the_tokens_that_are_to_be_learned_have_a_loss()
    {
        var data = TinyData.Conversations(rows: 6);
        var model = TinyGpt.Random();
        double expected = 0;
        int count = 0;
        for (int row = 0; row < data.Count; row++)
        {
            long[] tokens = [.. data.Sequences[row].ToArray().Select(token => (long)token)];
            using var noGrad = no_grad();
            var logProbs = nn.functional.log_softmax(model.Logits(model.Hidden(tensor(tokens).unsqueeze(0))), -1);
            for (int t = data.PromptLengths[row]; t < tokens.Length; t++)
            {
                if (!data.Learned![row][t])
                    continue;
                expected -= logProbs[0, t - 1, tokens[t]].ToDouble();
                count++;
            }
        }
        Assert.InRange(count, data.Count, data.Sequences.TokenCount / 2 + data.Count);

        Close.Assert(expected / count, MeanLoss(model, data), relative: 1e-5);
        var recorded = new RecordedRun();
        SupervisedFineTuning.Run(
            model, data, validation: null, new SftOptions { BatchSize = 6, Epochs = 1, MicroBatchSize = 4 }, recorded.Run);
        Close.Assert(expected / count, recorded.Reports.Single().Loss, relative: 1e-5);
    }

    [Fact]
    public void Fine_tuning_teaches_completions_and_reports_the_validation_loss_of_the_finished_epoch()
    {
        var data = TinyData.Completions(rows: 8);
        var model = TinyGpt.Fresh();
        var recorded = new RecordedRun();

        SupervisedFineTuning.Run(model, data, validation: data, new SftOptions { BatchSize = 4, Epochs = 60, LearningRate = 1e-2 },
            recorded.Run);

        Close.Assert(Math.Log(19), recorded.Reports[0].Loss, absolute: 0.1);
        Assert.InRange(recorded.Reports[^1].Loss, 0, 0.7); // prompts of one token that occur twice cannot be told apart
        Close.Assert(MeanLoss(model, data), recorded.Reports[^1].ValidationLoss!.Value, relative: 1e-5);
        Assert.False(model.training);
    }

    private static double MeanLoss(Gpt model, CompletionData data) => NextTokenLoss.Completions(model, data).Mean;
}
