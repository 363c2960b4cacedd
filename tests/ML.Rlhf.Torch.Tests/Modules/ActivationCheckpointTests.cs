using ML.Rlhf.TestSupport;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Modules;

/// <summary>Blocks that run again in the backward pass, against the same model that keeps everything.</summary>
public sealed class ActivationCheckpointTests
{
    private const int Tokens = 12, Rows = 3;

    public static TheoryData<LanguageModelArchitecture> Architectures =>
    [
        TinyGpt.Architecture with { Layers = 3 },
        TinyGpt.Architecture with { Layers = 3, Norms = NormPlacement.After },
        TinyLlama,
        TinyLlama with { SlidingWindow = 5 }, // a mask of the model's own
    ];

    private static LlamaArchitecture TinyLlama => new()
    {
        Layers = 3, Heads = 2, KeyValueHeads = 1, Width = 16, FeedForwardWidth = 32, ContextLength = 24, VocabularySize = 13,
    };

    [Theory]
    [MemberData(nameof(Architectures))]
    public void Hidden_states_and_all_gradients_are_the_same_bits(LanguageModelArchitecture architecture)
    {
        using var scope = NewDisposeScope();
        using var model = CausalLanguageModel.Create(architecture, new Generator(1));
        var (hidden, gradients) = Pass(model, checkpoints: false);

        var (again, gradientsAgain) = Pass(model, checkpoints: true);

        Assert.Equal(hidden, again);
        Assert.Equal(gradients, gradientsAgain);
    }

    [Fact]
    public void What_was_dropped_is_dropped_again()
    {
        using var scope = NewDisposeScope();
        using var model = CausalLanguageModel.Create(TinyGpt.Architecture with { Layers = 3 }, new Generator(1));
        model.Dropout = 0.3;
        model.train();
        model.ActivationCheckpointing = true;
        manual_seed(5);
        var ids = Ids(model);
        var weights = randn([Rows, Tokens, 16], generator: new Generator(3));
        var bias = model.get_parameter("h.0.mlp.c_proj.bias")!;

        // The gradient of a bias is the slope of the loss that the forward pass gave, under the same dropout: measured, it must agree.
        (model.Hidden(ids) * weights).sum().backward();
        double Loss(double shift)
        {
            using var noGrad = no_grad();
            bias[0].add_(shift);
            model.ActivationCheckpointing = true;
            manual_seed(5);
            using var grad = enable_grad(); // as in training: each block draws a seed
            double loss = (model.Hidden(ids) * weights).sum().ToDouble();
            using var off = no_grad();
            bias[0].add_(-shift);
            return loss;
        }
        const double Step = 1e-2;
        Assert.Equal((Loss(Step) - Loss(-Step)) / (2 * Step), bias.grad![0].ToDouble(), 0.02 * Math.Abs(bias.grad![0].ToDouble()) + 0.02);
    }

    [Fact]
    public void Adapters_learn_where_everything_else_is_frozen()
    {
        using var scope = NewDisposeScope();
        using var model = CausalLanguageModel.Create(TinyGpt.Architecture with { Layers = 3 }, new Generator(1));
        LowRankAdapterTests.Attach(model, new LoraOptions(), disturb: true);
        var (hidden, gradients) = Pass(model, checkpoints: false);

        var (again, gradientsAgain) = Pass(model, checkpoints: true);

        Assert.NotEmpty(gradients);
        Assert.Equal(hidden, again);
        Assert.Equal(gradients, gradientsAgain);
    }

    [Fact]
    public void A_backward_pass_leaves_no_tensor_behind()
    {
        using var model = CausalLanguageModel.Create(TinyGpt.Architecture with { Layers = 3 }, new Generator(1));

        LiveTensors.AssertNoneLeftBy(() => Pass(model, checkpoints: true));
    }

    [Theory]
    [InlineData(Precision.Float32)]
    [InlineData(Precision.Auto)]
    public void A_run_gives_the_same_weights(Precision precision)
    {
        Assert.Equal(Train(checkpoints: false), Train(checkpoints: true));

        float[] Train(bool checkpoints)
        {
            using var model = TinyGpt.Fresh(1, TinyGpt.Architecture with { Width = 32 });
            LanguageModelTraining.Run(
                model, Text, null, new Options { Steps = 8, Precision = precision, ActivationCheckpointing = checkpoints }, new RecordedRun().Run);
            Assert.False(model.ActivationCheckpointing);
            using var scope = NewDisposeScope();
            return [.. model.parameters().SelectMany(parameter => parameter.flatten().data<float>())];
        }
    }

    [Fact]
    public void A_model_without_blocks_is_an_error()
    {
        using var model = CausalLanguageModel.Create(
            new LstmArchitecture { Layers = 1, Width = 8, ContextLength = 24, VocabularySize = 19 }, new Generator(1));

        var error = Assert.Throws<ArgumentException>(() => LanguageModelTraining.Run(
            model, Text, null, new Options { Steps = 1, ActivationCheckpointing = true }, new RecordedRun().Run));

        Assert.StartsWith("ActivationCheckpointing is true, and only a Gpt or a Llama has blocks", error.Message, StringComparison.Ordinal);
    }

    private static TokenSequences Text
    {
        get
        {
            var text = new TokenSequences();
            text.Add([.. Enumerable.Range(0, 100).Select(i => i * i % 19)]);
            return text;
        }
    }

    private sealed record Options : GptHyperparameters;

    private static Tensor Ids(CausalLanguageModel model) =>
        randint(model.Architecture.VocabularySize, [Rows, Tokens], dtype: int64, generator: new Generator(7));

    private static (float[] Hidden, SortedDictionary<string, float[]> Gradients) Pass(CausalLanguageModel model, bool checkpoints)
    {
        using var scope = NewDisposeScope();
        model.ActivationCheckpointing = checkpoints;
        foreach (var parameter in model.parameters().Where(parameter => parameter.grad is not null))
            parameter.grad!.zero_();
        var hidden = model.Hidden(Ids(model));
        (hidden * randn([Rows, Tokens, 16], generator: new Generator(3))).sum().backward();
        var gradients = new SortedDictionary<string, float[]>();
        foreach (var (name, parameter) in model.named_parameters().Where(p => p.parameter.grad is not null))
            gradients.Add(name, [.. parameter.grad!.flatten().data<float>()]);
        return ([.. hidden.flatten().data<float>()], gradients);
    }
}
