using ML.Rlhf.Torch.Generation;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Training;

/// <summary>What is particular to training an encoder–decoder.</summary>
public class EncoderDecoderTrainingTests
{
    /// <summary>Needs attention to the source at a place that depends on its length: neither half of the model can do it alone.</summary>
    [Fact]
    public void It_learns_to_write_texts_backwards_that_it_has_not_seen()
    {
        const int Letters = 8, HeldOut = 200;
        var (pairs, held) = Backwards(rows: 3000, HeldOut, Letters);
        var model = TinyEncoderDecoder.Fresh(seed: 1, new()
        {
            Layers = 1, Heads = 2, Width = 32, FeedForwardWidth = 64, ContextLength = 8, VocabularySize = Letters + 1,
        });
        var recorded = new RecordedRun(seed: 1);

        EncoderDecoderTraining.Run(
            model, pairs, held, new SequenceOptions { Epochs = 10, BatchSize = 64, LearningRate = 5e-3, WarmupSteps = 100, Dropout = 0 },
            recorded.Run);

        int[][] sources = [.. Enumerable.Range(0, HeldOut).Select(row => held.Sources[row].ToArray())];
        var answers = Sampler.Generate(
            model, sources, new RandomStream[HeldOut], held.EndToken, new SamplingOptions { Temperature = 0, MaxNewTokens = 8 });
        int right = Enumerable.Range(0, HeldOut).Count(row => answers[row].Tokens.AsSpan().SequenceEqual(held.Targets[row]));
        Assert.InRange(right, 0.9 * HeldOut, HeldOut);
        Assert.InRange(recorded.Reports[^1].ValidationLoss!.Value, 0, 0.3); // smoothing keeps it above 0
    }

    [Fact]
    public void The_reported_loss_is_the_mean_over_the_targets_tokens_of_the_whole_batch_smoothed_as_asked()
    {
        var model = TinyEncoderDecoder.Random();
        var pairs = TinyData.Pairs(6);
        double[] plain = [], uniform = [];
        for (int row = 0; row < 6; row++)
        {
            var logProbs = LogProbs(model, pairs, row);
            plain = [.. plain, .. pairs.Targets[row].ToArray().Select((token, t) => -logProbs[t, token].ToDouble())];
            uniform = [.. uniform, .. Enumerable.Range(0, (int)logProbs.shape[0]).Select(t => -logProbs[t].mean().ToDouble())];
        }

        foreach (double smoothing in (double[])[0, 0.1, 0.5])
        {
            var recorded = new RecordedRun();
            EncoderDecoderTraining.Run(
                model.Clone(), pairs, validation: null,
                new SequenceOptions { BatchSize = 6, Epochs = 1, MicroBatchSize = 4, Dropout = 0, LabelSmoothing = smoothing },
                recorded.Run);

            Close.Assert(
                (1 - smoothing) * plain.Average() + smoothing * uniform.Average(), recorded.Reports.Single().Loss, relative: 1e-5);
        }
    }

    [Fact]
    public void The_validation_loss_is_that_of_the_finished_epoch_without_smoothing_and_dropout()
    {
        var model = TinyEncoderDecoder.Random();
        var held = TinyData.Pairs(7, seed: 3);
        var recorded = new RecordedRun();

        EncoderDecoderTraining.Run(
            model, TinyData.Pairs(8), held, new SequenceOptions { BatchSize = 4, Epochs = 2, Dropout = 0.5, LabelSmoothing = 0.3 },
            recorded.Run);

        Assert.Equal([false, true, false, true], recorded.Reports.Select(r => r.ValidationLoss is not null));
        double expected = Enumerable.Range(0, 7).Sum(row =>
        {
            var logProbs = LogProbs(model, held, row);
            return held.Targets[row].ToArray().Select((token, t) => -logProbs[t, token].ToDouble()).Sum();
        });
        Close.Assert(expected / held.Targets.TokenCount, recorded.Reports[^1].ValidationLoss!.Value, relative: 1e-5);
        Assert.Equal((false, 0.0), (model.training, model.Dropout));
    }

    [Fact]
    public void Every_parameter_moves()
    {
        var (before, after, _) = TinyLoop.Run("Encoder–decoder", new());

        Assert.All(before, p => Assert.True(Close.Distance(p.Value, after[p.Key]) > 1e-6, p.Key));
    }

    /// <summary>log p at each place of a target, (T, V), from a pass over this row alone.</summary>
    private static Tensor LogProbs(EncoderDecoder model, SequencePairs pairs, int row)
    {
        using var noGrad = no_grad();
        Tensor Ids(ReadOnlySpan<int> tokens) => tensor(Array.ConvertAll(tokens.ToArray(), t => (long)t)).unsqueeze(0);
        int[] input = [pairs.EndToken, .. pairs.Targets[row][..^1]];
        return model.Logits(model.Decode(Ids(input), model.Encode(Ids(pairs.Sources[row]))))[0].log_softmax(-1);
    }

    /// <summary>Words of 3 to 5 letters, none of them twice, and the same words backwards.</summary>
    private static (SequencePairs Pairs, SequencePairs Held) Backwards(int rows, int held, int letters)
    {
        var random = new RandomStream(7);
        SequencePairs pairs = new(new(), new(), letters), heldPairs = new(new(), new(), letters);
        var words = new HashSet<string>();
        while (words.Count < rows + held)
        {
            int[] word = new int[3 + random.NextInt32(3)];
            for (int i = 0; i < word.Length; i++)
                word[i] = random.NextInt32(letters);
            if (!words.Add(string.Join(' ', word)))
                continue;
            var into = words.Count <= held ? heldPairs : pairs;
            into.Sources.Add([.. word, letters]);
            into.Targets.Add([.. word.Reverse(), letters]);
        }
        return (pairs, heldPairs);
    }
}
