using ML.Rlhf.Torch.Training;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Training;

public class PackedBatchTests
{
    [Fact]
    public void Rows_share_sequences_without_loss_and_within_the_context()
    {
        var random = new RandomStream(3);
        int[] lengths = [.. Enumerable.Range(0, 50).Select(_ => 1 + random.NextInt32(20))], rows = [.. Enumerable.Range(0, 50)];

        var sequences = PackedBatch.Pack(rows, row => lengths[row], context: 20);

        Assert.Equal(rows, sequences.SelectMany(s => s).Order());
        Assert.All(sequences, s => Assert.InRange(s.Sum(row => lengths[row]), 1, 20));
        Assert.InRange(sequences.Count, lengths.Sum() / 20, 1 + lengths.Sum() / 17); // first fit, longest first, wastes little
    }

    [Theory]
    [InlineData(false, false)]
    [InlineData(true, false)]
    [InlineData(false, true)]
    public void Packing_changes_neither_loss_nor_gradient(bool promptsToo, bool inTurns)
    {
        var data = inTurns ? TinyData.Conversations(12) : TinyData.Completions(12);
        int[] rows = [7, 1, 4, 11, 0, 3];
        var model = TinyGpt.Random();

        var (ids, layout, places, labels) = PackedBatch.Create(data, rows, model.Architecture.ContextLength, CPU, promptsToo);
        Assert.InRange(ids.shape[0], 1, rows.Length - 1); // else nothing was packed
        var packed = NextTokenLoss.Sum(model, ids, places, labels, layout);
        packed.backward();
        var packedGradients = Gradients(model);

        var (plainIds, plainPlaces, plainLabels) = NextTokenLoss.CompletionBatch(data, rows, CPU, promptsToo);
        var plain = NextTokenLoss.Sum(model, plainIds, plainPlaces, plainLabels);
        plain.backward();

        Close.Assert(plain, packed, relative: 1e-5);
        Assert.All(packedGradients.Zip(Gradients(model)), pair => Close.Assert(pair.Second, pair.First, relative: 1e-4, absolute: 1e-5));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Fine_tuning_takes_the_same_steps_packed_or_padded(bool inTurns)
    {
        double[] Losses(bool packing, int? microBatch = null)
        {
            var recorded = new RecordedRun();
            SupervisedFineTuning.Run(
                TinyGpt.Random(), inTurns ? TinyData.Conversations(20) : TinyData.Completions(20), validation: null,
                new SftOptions { Epochs = 2, BatchSize = 8, LearningRate = 1e-3, Packing = packing, MicroBatchSize = microBatch },
                recorded.Run);
            return [.. recorded.Reports.Select(r => r.Loss)];
        }

        double[] padded = Losses(packing: false);

        Assert.All(padded.Zip(Losses(packing: true)), pair => Close.Assert(pair.First, pair.Second, relative: 1e-4));
        Assert.All(padded.Zip(Losses(packing: true, microBatch: 3)), pair => Close.Assert(pair.First, pair.Second, relative: 1e-4));
    }

    /// <summary>The gradients, which are then forgotten.</summary>
    private static Tensor[] Gradients(Torch.Modules.Gpt model)
    {
        Tensor[] gradients = [.. model.parameters().Select(p => p.grad!.clone())];
        foreach (var parameter in model.parameters())
            parameter.grad!.zero_();
        return gradients;
    }
}
