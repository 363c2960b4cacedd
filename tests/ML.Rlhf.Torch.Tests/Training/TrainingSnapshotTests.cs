using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Training;

public class TrainingSnapshotTests
{
    [Fact]
    public void After_going_back_the_same_steps_give_the_same_weights_bit_for_bit()
    {
        Gpt first = TinyGpt.Random(seed: 1), second = TinyGpt.Random(seed: 2);
        using AdamW firstOptimizer = new(new PlainOptions { WeightDecay = 0.1 }, first), secondOptimizer = new(new PlainOptions(), second);
        using var average = new WeightAverage(firstOptimizer.Parameters, decay: 0.9);
        void Steps(int seed, int count)
        {
            using var generator = new Generator((ulong)seed, CPU);
            for (int i = 0; i < count; i++)
            {
                foreach (var (model, optimizer) in new[] { (first, firstOptimizer), (second, secondOptimizer) })
                {
                    foreach (var parameter in model.parameters())
                        parameter.grad!.copy_(randn(parameter.shape, generator: generator));
                    optimizer.Step(learningRate: 0.01);
                }
            }
        }

        using var snapshot = new TrainingSnapshot(average, firstOptimizer, secondOptimizer);
        Steps(seed: 1, count: 3);
        snapshot.Take();
        var kept = new[] { TinyGpt.Snapshot(first), TinyGpt.Snapshot(second) };
        Steps(seed: 2, count: 2);
        var ahead = new[] { TinyGpt.Snapshot(first), TinyGpt.Snapshot(second) };
        Steps(seed: 3, count: 5);

        snapshot.Restore();

        AssertSame(kept);
        Steps(seed: 2, count: 2); // with the memory and the step count of then
        AssertSame(ahead);

        void AssertSame(Dictionary<string, Tensor>[] expected)
        {
            foreach (var (weights, model) in expected.Zip([first, second]))
                Assert.All(model.named_parameters(), p => Assert.Equal(0, Close.Distance(weights[p.name], p.parameter)));
        }
    }

    [Fact]
    public void Taking_and_going_back_make_no_tensors()
    {
        using var optimizer = new AdamW(new PlainOptions(), TinyGpt.Random());
        long before = LiveTensors.Count;
        using (var snapshot = new TrainingSnapshot(optimizer))
        {
            long made = LiveTensors.Count;
            Assert.Equal(3, made - before); // weights and Adam's two memories

            for (int i = 0; i < 10; i++)
            {
                snapshot.Take();
                snapshot.Restore();
            }

            Assert.Equal(made, LiveTensors.Count);
        }
        Assert.Equal(before, LiveTensors.Count);
    }
}
