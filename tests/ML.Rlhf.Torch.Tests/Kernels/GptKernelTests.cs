using ML.Rlhf.TestSupport;
using ML.Rlhf.Torch.Kernels;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Kernels;

/// <summary>The bfloat16 kernels against libtorch's float32, which they know nothing of.</summary>
public sealed class GptKernelTests
{
    /// <summary>bfloat16 has 8 bits: each factor is wrong by up to 0.4 %, and errors of different signs add up to somewhat more.</summary>
    private const double Tolerance = 0.02;

    public GptKernelTests() => Assert.SkipUnless(MicroKernel.IsSupported, "This processor does not multiply bfloat16 numbers.");

    [Theory]
    [InlineData(1, 1, 16, 2, 1)]
    [InlineData(2, 3, 48, 97, 3)]
    [InlineData(2, 2, 64, 64, 2)]
    [InlineData(1, 4, 128, 130, 5)]
    [InlineData(2, 2, 160, 33, 4)]
    public void Hidden_states_and_all_gradients_are_those_of_float32(int layers, int heads, int width, int tokens, int rows)
    {
        using var scope = NewDisposeScope();
        var model = Model(layers, heads, width, tokens);
        var ids = Ids(rows, tokens);
        var weights = randn([rows, tokens, width], generator: new Generator(3));

        var (hidden, gradients) = Pass(model, ids, weights, Precision.BFloat16);
        var (expected, expectedGradients) = Pass(model, ids, weights, Precision.Float32);

        AssertNear(expected, hidden, "hidden states");
        Assert.Equal(expectedGradients.Count, gradients.Count);
        foreach (var (name, gradient) in expectedGradients)
            AssertNear(gradient, gradients[name], name);
        Assert.NotEqual(Bytes(expected), Bytes(hidden)); // it was another computation
    }

    [Fact]
    public void A_row_does_not_depend_on_the_rows_beside_it_or_on_what_follows()
    {
        using var scope = NewDisposeScope();
        var model = Model(2, 2, 64, 100);
        model.Precision = Precision.BFloat16;
        using var noGrad = no_grad();
        var ids = Ids(5, 100);

        var together = model.Hidden(ids);

        Assert.Equal(Bytes(together.narrow(0, 3, 1)), Bytes(model.Hidden(ids.narrow(0, 3, 1))));
        AssertNear(together.narrow(0, 1, 2).narrow(1, 0, 41), model.Hidden(ids.narrow(0, 1, 2).narrow(1, 0, 41).contiguous()), "prefix");
    }

    [Fact]
    public void The_number_of_threads_changes_no_bit()
    {
        using var scope = NewDisposeScope();
        var model = Model(2, 4, 128, 70);
        var (ids, weights) = (Ids(6, 70), randn([6, 70, 128], generator: new Generator(3)));
        int before = get_num_threads();
        try
        {
            set_num_threads(1);
            var (alone, aloneGradients) = Pass(model, ids, weights, Precision.BFloat16);
            set_num_threads(2);
            for (int i = 0; i < 5; i++)
            {
                var (shared, sharedGradients) = Pass(model, ids, weights, Precision.BFloat16);
                Assert.Equal(Bytes(alone), Bytes(shared));
                foreach (var (name, gradient) in aloneGradients)
                    Assert.True(Bytes(gradient).SequenceEqual(Bytes(sharedGradients[name])), name);
            }
        }
        finally
        {
            set_num_threads(before);
        }
    }

    [Fact]
    public void Blocks_that_are_computed_again_change_no_bit_and_are_not_kept()
    {
        using var scope = NewDisposeScope();
        var model = Model(4, 2, 64, 70);
        var (ids, weights) = (Ids(3, 70), randn([3, 70, 64], generator: new Generator(3)));
        var (hidden, gradients) = Pass(model, ids, weights, Precision.BFloat16);

        model.ActivationCheckpointing = true;
        var (again, gradientsAgain) = Pass(model, ids, weights, Precision.BFloat16);

        Assert.Equal(Bytes(hidden), Bytes(again));
        foreach (var (name, gradient) in gradients)
            Assert.True(Bytes(gradient).SequenceEqual(Bytes(gradientsAgain[name])), name);
        // 24 bytes per token, block and number of its width, against 4, and one block's other 20.
        var shape = new GptShape(3, 70, 64, 2, 256, Layers: 4, 1e-5f);
        double kept = new GptTrunkState(shape, Activations.Kept).KeptBytes, checkpointed = new GptTrunkState(shape, Activations.Checkpointed).KeptBytes;
        Assert.InRange(checkpointed / kept, 0.3, (4 + 16 + 20) / 96.0 + 0.05);
    }

    [Fact]
    public void Gradients_add_up_over_passes()
    {
        using var scope = NewDisposeScope();
        var model = Model(1, 2, 32, 20);
        var (ids, weights) = (Ids(2, 20), randn([2, 20, 32], generator: new Generator(3)));
        var (_, once) = Pass(model, ids, weights, Precision.BFloat16);

        foreach (var parameter in model.parameters())
            parameter.grad = null;
        for (int i = 0; i < 3; i++)
            (model.Hidden(ids) * weights).sum().backward();

        foreach (var (name, parameter) in model.named_parameters())
            AssertNear(3 * once[name], parameter.grad!, name, 1e-5);
    }

    [Theory]
    [InlineData(65)]
    [InlineData(2048)]
    [InlineData(5003)] // groups of 2,048, and an odd rest
    public void The_heads_loss_and_its_gradients_are_those_of_float32(int vocabulary)
    {
        using var scope = NewDisposeScope();
        var model = Model(1, 2, 32, 20, vocabulary);
        var labels = randint(vocabulary, [133], dtype: int64, generator: new Generator(5));

        var (loss, dHidden, dWeight) = Head(model, labels, Precision.BFloat16);
        var (expected, expectedHidden, expectedWeight) = Head(model, labels, Precision.Float32);

        Assert.Equal(expected, loss, 1e-3 * expected);
        AssertNear(expectedHidden, dHidden, "hidden states");
        AssertNear(expectedWeight, dWeight, "weights");
    }

    [Theory]
    [InlineData(65, 1)]
    [InlineData(65, 0.7)]
    [InlineData(5003, 1.3)]
    public void Log_probabilities_and_entropies_and_their_gradients_are_those_of_float32(int vocabulary, double temperature)
    {
        using var scope = NewDisposeScope();
        using var model = Model(1, 2, 32, 20, vocabulary);
        var tokens = randint(vocabulary, [133], dtype: int64, generator: new Generator(5));

        var (logProbs, entropies, dHidden, dWeight) = Predict(Precision.BFloat16);
        var (expected, expectedEntropies, expectedHidden, expectedWeight) = Predict(Precision.Float32);

        AssertNear(expected, logProbs, "log-probabilities");
        AssertNear(expectedEntropies, entropies, "entropies", 0.005);
        AssertNear(expectedHidden, dHidden, "hidden states");
        AssertNear(expectedWeight, dWeight, "weights");

        (Tensor LogProbs, Tensor Entropies, Tensor Hidden, Tensor Weight) Predict(Precision precision)
        {
            model.Precision = precision;
            foreach (var parameter in model.parameters())
                parameter.grad = null;
            var hidden = (3 * randn([133, 32], generator: new Generator(4))).requires_grad_(true);
            var predictions = model.Predict(hidden * 1, tokens, temperature);
            var (a, b) = (randn([133], generator: new Generator(6)), randn([133], generator: new Generator(7)));
            var entropies = predictions.Entropies();
            ((predictions.LogProbs * a) + (entropies * b)).sum().backward();
            var weight = model.named_parameters().Single(p => p.name == "wte.weight").parameter;
            return (predictions.LogProbs.detach(), entropies.detach(), hidden.grad!.clone(), weight.grad!.clone());
        }
    }

    [Fact]
    public void A_run_in_bfloat16_learns_as_much_and_leaves_no_tensor()
    {
        var text = new TokenSequences();
        var random = new Random(1);
        int token = 0;
        text.Add([.. Enumerable.Range(0, 4000).Select(_ => token = (token * 5 + random.Next(3)) % 64)]); // ln 3 nats at best

        double float32 = Learn(Precision.Float32), bfloat16 = Learn(Precision.BFloat16);

        Assert.InRange(float32, 1, 2.5);
        Assert.Equal(float32, bfloat16, 0.02 * float32);
        Assert.Equal(bfloat16, Learn(Precision.Auto));

        double Learn(Precision precision)
        {
            using var model = Model(2, 2, 64, 32);
            long before = LiveTensors.Count;
            var run = new RecordedRun();
            LanguageModelTraining.Run(model, text, null, new PretrainingOptions { Steps = 200, LearningRate = 3e-3, WarmupSteps = 5, Precision = precision }, run.Run);
            Assert.Equal(before, LiveTensors.Count);
            Assert.Equal(Precision.Float32, model.Precision);
            return run.Reports.TakeLast(10).Average(report => report.Loss);
        }
    }

    [Fact]
    public void Bfloat16_for_a_model_without_kernels_is_an_error_and_auto_is_not()
    {
        using var model = new Gpt(TinyGpt.Architecture with { Activation = Activation.Relu }, new Generator(1));
        var text = new TokenSequences();
        text.Add([.. Enumerable.Range(0, 50).Select(i => i % 5)]);
        var options = new PretrainingOptions { Steps = 1, WarmupSteps = 0, Precision = Precision.BFloat16 };

        var error = Assert.Throws<ArgumentException>(() => LanguageModelTraining.Run(model, text, null, options, new RecordedRun().Run));

        Assert.Contains("Precision is BFloat16", error.Message, StringComparison.Ordinal);
        LanguageModelTraining.Run(model, text, null, options with { Precision = Precision.Auto }, new RecordedRun().Run);
    }

    private static Gpt Model(int layers, int heads, int width, int context, int vocabulary = 65)
    {
        var architecture = new GptArchitecture
        {
            Layers = layers, Heads = heads, Width = width, ContextLength = context, VocabularySize = vocabulary,
        };
        var generator = new Generator(1);
        var model = new Gpt(architecture, generator);
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        foreach (var parameter in model.parameters()) // gains, biases and attention that are not those of an untrained model
            parameter.add_(randn(parameter.shape, generator: generator) * 0.1f);
        return model;
    }

    private static Tensor Ids(int rows, int tokens) => randint(65, [rows, tokens], dtype: int64, generator: new Generator(2));

    private static (Tensor Hidden, Dictionary<string, Tensor> Gradients) Pass(Gpt model, Tensor ids, Tensor weights, Precision precision)
    {
        model.Precision = precision;
        foreach (var parameter in model.parameters())
            parameter.grad = null;
        var hidden = model.Hidden(ids);
        (hidden * weights).sum().backward();
        return (hidden.detach(), model.named_parameters().ToDictionary(p => p.name, p => p.parameter.grad!.clone()));
    }

    private static (double Loss, Tensor Hidden, Tensor Weight) Head(Gpt model, Tensor labels, Precision precision)
    {
        model.Precision = precision;
        foreach (var parameter in model.parameters())
            parameter.grad = null;
        var hidden = randn([133, 32], generator: new Generator(4)).requires_grad_(true);
        var loss = model.CrossEntropySum(hidden * 1, labels);
        (loss / 7).backward();
        return (loss.item<float>(), hidden.grad!.clone(), model.named_parameters().Single(p => p.name == "wte.weight").parameter.grad!.clone());
    }

    private static byte[] Bytes(Tensor tensor) => tensor.detach().contiguous().bytes.ToArray();

    private static void AssertNear(Tensor expected, Tensor actual, string name, double tolerance = Tolerance)
    {
        double error = ((actual - expected).norm() / expected.norm()).item<float>();
        Assert.True(error < tolerance, $"{name} differ by {error:P2}.");
    }
}
