using ML.Rlhf.Torch.Training;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;
using Parameter = TorchSharp.Modules.Parameter;

namespace ML.Rlhf.Torch.Tests.Training;

public class AdamWTests
{
    /// <summary>
    /// The reference ran in float64; after 20 float32 steps on numbers near 1, differences of a few units in the last place remain.
    /// </summary>
    [Fact]
    public void Twenty_steps_equal_the_reference() =>
        Assert.All(Golden.Load("optim/adam.json")["adamw"].Items, run => AssertTrajectory(run, Options(run["hyper"], decay: true)));

    [Fact]
    public void Twenty_steps_of_TensorFlows_form_equal_the_reference() => Assert.All(
        Golden.Load("optim/adam.json")["adam_tf_epsilon"].Items,
        run => AssertTrajectory(run, Options(run["hyper"], decay: false) with { AdamForm = AdamForm.TensorFlow }));

    /// <summary>We have decoupled decay only. Adam's older kind, λθ added to the gradient, is the caller's to add.</summary>
    [Fact]
    public void Twenty_steps_with_decay_in_the_gradient_equal_the_reference()
    {
        var run = Golden.Load("optim/adam.json")["adam_l2"];
        double decay = run["hyper"]["weight_decay"].Number;

        AssertTrajectory(run, Options(run["hyper"], decay: false), (gradient, parameter) => gradient + decay * parameter);
    }

    private static PlainOptions Options(Golden hyper, bool decay) => new()
    {
        Beta1 = hyper.Has("betas") ? hyper["betas"][0].Number : hyper["beta1"].Number,
        Beta2 = hyper.Has("betas") ? hyper["betas"][1].Number : hyper["beta2"].Number,
        Epsilon = hyper["eps"].Number,
        WeightDecay = decay ? hyper["weight_decay"].Number : 0,
        GradientClipping = double.PositiveInfinity,
    };

    private static void AssertTrajectory(Golden run, PlainOptions options, Func<Tensor, Tensor, Tensor>? gradientOf = null)
    {
        var golden = Golden.Load("optim/adam.json");
        gradientOf ??= (gradient, _) => gradient;
        using var noGrad = no_grad();
        // The reference decays everything. Ours decays what has two dimensions, so the vector comes as a matrix of one row.
        using var module = new TwoParameters(golden["init"]["w"].Tensor(), golden["init"]["b"].Tensor().unsqueeze(0));
        using var optimizer = new AdamW(options, module);

        foreach (var (gradients, expected) in golden["grads"].Items.Zip(run["params_after_step"].Items))
        {
            optimizer.ZeroGradients();
            module.First.grad!.copy_(gradientOf(gradients["w"].Tensor(), module.First));
            module.Second.grad!.copy_(gradientOf(gradients["b"].Tensor().unsqueeze(0), module.Second));
            optimizer.Step(run["hyper"]["lr"].Number);

            Close.Assert(expected["w"].Tensor(), module.First, relative: 1e-6, absolute: 1e-6, "w");
            Close.Assert(expected["b"].Tensor().unsqueeze(0), module.Second, relative: 1e-6, absolute: 1e-6, "b");
        }
    }

    /// <summary>What step t moves: m and v do not depend on ε, so ε may be that of step t from the beginning.</summary>
    [Theory]
    [InlineData(0.999, 1e-5)]
    [InlineData(0.95, 1e-2)]
    public void TensorFlows_form_is_PyTorchs_with_an_epsilon_that_shrinks_to_its_own(double beta2, double epsilon)
    {
        Tensor gradient = tensor(new[] { 1e-4f, -3e-3f, 2f, 0 }), start = tensor(new[] { 0.5f, -1, 2, 3 });
        Tensor Movement(AdamForm form, double withEpsilon, int steps)
        {
            using var module = new TwoParameters(start, zeros(1));
            using var optimizer = new AdamW(
                new PlainOptions { Beta2 = beta2, Epsilon = withEpsilon, AdamForm = form, GradientClipping = double.PositiveInfinity },
                module);
            Tensor before = start;
            for (int step = 0; step < steps; step++)
            {
                before = module.First.detach().clone();
                module.First.grad!.copy_(gradient);
                optimizer.Step(0.1);
            }
            return (module.First - before).detach();
        }

        foreach (int step in (int[])[1, 2, 10, 300])
        {
            var tensorFlow = Movement(AdamForm.TensorFlow, epsilon, step);
            var scaled = Movement(AdamForm.PyTorch, epsilon / Math.Sqrt(1 - Math.Pow(beta2, step)), step);
            Close.Assert(scaled, tensorFlow, relative: 1e-4, absolute: 1e-6, $"step {step}");
        }
        var first = Movement(AdamForm.PyTorch, epsilon, 1) / Movement(AdamForm.TensorFlow, epsilon, 1);
        Assert.True(first[0].ToDouble() > 1.5, "small gradients make smaller first steps in TensorFlow's form");
    }

    [Fact]
    public void Clipping_equals_the_reference()
    {
        foreach (var c in Golden.Load("optim/clip.json")["cases"].Items)
        {
            Tensor first = c["grads"][0].Tensor(), second = c["grads"][1].Tensor();
            using var module = new TwoParameters(zeros_like(first), zeros_like(second));
            // β = 0 and a huge ε make the step −rate / ε · gradient, so the parameters show the clipped gradient.
            using var optimizer = new AdamW(
                new PlainOptions { Beta1 = 0, Beta2 = 0, Epsilon = 1e9, GradientClipping = c["max_norm"].Number }, module);
            module.First.grad!.copy_(first);
            module.Second.grad!.copy_(second);

            double norm = optimizer.Step(learningRate: 1e9);

            Close.Assert(c["total_norm"].Number, norm, relative: 1e-6);
            Close.Assert(c["clipped"][0].Tensor(), -module.First, relative: 1e-5, absolute: 1e-7);
            Close.Assert(c["clipped"][1].Tensor(), -module.Second, relative: 1e-5, absolute: 1e-7);
        }
    }

    [Fact]
    public void Weight_decay_shrinks_matrices_and_embeddings_and_leaves_biases_and_norms()
    {
        var model = TinyGpt.Random();
        var before = TinyGpt.Snapshot(model);
        using var optimizer = new AdamW(new PlainOptions { WeightDecay = 0.5 }, model);

        optimizer.Step(learningRate: 0.1); // the gradients are 0

        foreach (var (name, parameter) in model.named_parameters())
            Close.Assert(before[name] * (parameter.ndim >= 2 ? 0.95 : 1), parameter, relative: 1e-6, what: name);
    }

    [Fact]
    public void Parameters_become_views_of_one_buffer_and_keep_their_values()
    {
        var model = TinyGpt.Random();
        var before = TinyGpt.Snapshot(model);

        using var optimizer = new AdamW(new PlainOptions(), model);

        foreach (var (name, parameter) in model.named_parameters())
        {
            Close.Assert(before[name], parameter, what: name);
            Assert.True(parameter.requires_grad && parameter.is_leaf, name);
        }
        long[] starts = [.. model.parameters().Select(p => p.storage_offset()).Order()];
        Assert.Equal(0, starts[0]);
        Assert.Equal(starts.Length, starts.Distinct().Count());
    }

    [Fact]
    public void After_the_optimiser_is_gone_the_model_keeps_its_weights_and_can_be_used_trained_and_cloned()
    {
        var model = TinyGpt.Random();
        var ids = arange(8).unsqueeze(0);
        Tensor trained;
        using (var optimizer = new AdamW(new PlainOptions(), model))
        {
            model.Hidden(ids).sum().backward();
            optimizer.Step(0.01);
            trained = model.Hidden(ids);
        }

        GC.Collect();
        Close.Assert(trained, model.Hidden(ids));
        Close.Assert(trained, model.Clone().Hidden(ids));
        Assert.All(model.parameters(), p => Assert.Null(p.grad));
        Assert.All(model.parameters(), p => Assert.Equal(0, p.storage_offset())); // no parameter keeps the memory of the others alive
        using (var again = new AdamW(new PlainOptions(), model))
        {
            model.Hidden(ids).sum().backward();
            Assert.True(again.Step(0.01) > 0);
        }
        Assert.True(Close.Distance(trained, model.Hidden(ids)) > 1e-3);
    }

    [Fact]
    public void Gradients_of_several_backward_passes_add_up_until_they_are_zeroed()
    {
        using var module = new TwoParameters(ones(2, 2), ones(3));
        using var optimizer = new AdamW(new PlainOptions { GradientClipping = double.PositiveInfinity }, module);
        void Backward() => ((module.First * 2).sum() + module.Second.sum()).backward();

        Backward();
        Backward();
        Close.Assert(full([2, 2], 4f), module.First.grad!);
        Close.Assert(Math.Sqrt(4 * 16 + 3 * 4), optimizer.Step(0.1), relative: 1e-6);

        optimizer.ZeroGradients();
        Backward();
        Close.Assert(full([2, 2], 2f), module.First.grad!);
    }

    [Theory]
    [InlineData(float.NaN)]
    [InlineData(float.PositiveInfinity)]
    public void A_gradient_that_is_not_finite_is_refused_and_changes_no_parameter_now_or_later(float bad)
    {
        var model = TinyGpt.Random();
        var before = TinyGpt.Snapshot(model);
        using var optimizer = new AdamW(new PlainOptions { WeightDecay = 0.1 }, model);
        model.parameters().First().grad![0, 0] = bad;

        Assert.False(double.IsFinite(optimizer.Step(0.1)));
        var error = Assert.Throws<NonFiniteGradientException>(() => optimizer.ClipGradients());

        Assert.Contains("no weight was changed by this step. Lower the learning rate", error.Message);
        foreach (var (name, parameter) in model.named_parameters())
            Close.Assert(before[name], parameter, what: name);

        optimizer.ZeroGradients();
        optimizer.Step(1e-3); // the optimiser's own state is clean too
        Assert.All(model.parameters(), p => Assert.True(p.isfinite().all().ToBoolean()));
    }

    [Fact]
    public void A_step_and_the_optimiser_itself_leave_no_tensor_behind()
    {
        var model = TinyGpt.Random();

        LiveTensors.AssertNoneLeftBy(() =>
        {
            using var optimizer = new AdamW(new PlainOptions { WeightDecay = 0.1 }, model);
            optimizer.ZeroGradients();
            optimizer.Step(0.1);
        });
    }

    /// <summary>libtorch's own operations in float64. Sizes end within a vector and within a block; decay ends within a block.</summary>
    [Theory]
    [InlineData(AdamForm.PyTorch, 0, double.PositiveInfinity)]
    [InlineData(AdamForm.PyTorch, 0.1, 1)]
    [InlineData(AdamForm.TensorFlow, 0.1, double.PositiveInfinity)]
    [InlineData(AdamForm.TensorFlow, 0, 1)]
    public void Steps_equal_libtorchs_operations_at_any_size(AdamForm form, double decay, double clipping)
    {
        var options = new PlainOptions { AdamForm = form, WeightDecay = decay, GradientClipping = clipping, Epsilon = 1e-5 };
        foreach (var (matrix, vector) in ((int, int)[])[(1, 1), (7, 3), (16, 8), (16383, 5), (16384, 1), (40001, 30003)])
        {
            using var scope = NewDisposeScope();
            using var generator = new Generator(7);
            var values = randn([matrix + vector], dtype: float64, generator: generator).@float();
            using var module = new TwoParameters(values[..matrix].unsqueeze(0), values[matrix..]);
            using var optimizer = new AdamW(options, module);
            Tensor expected = values.@double(), mean = zeros_like(expected), square = zeros_like(expected);
            using var noGrad = no_grad();
            for (int step = 1; step <= 5; step++)
            {
                var gradient = randn([matrix + vector], dtype: float64, generator: generator).@float();
                optimizer.Gradients.copy_(gradient);
                Close.Assert(gradient.@double().norm().ToDouble(), optimizer.Step(0.01), relative: 1e-6);

                var g = gradient.@double();
                double norm = g.norm().ToDouble(), root = Math.Sqrt(1 - Math.Pow(options.Beta2, step));
                g *= norm > clipping ? clipping / (norm + 1e-6) : 1;
                expected[..matrix].mul_(1 - 0.01 * decay);
                mean = mean * options.Beta1 + g * (1 - options.Beta1);
                square = square * options.Beta2 + g * g * (1 - options.Beta2);
                var divisor = form == AdamForm.PyTorch ? square.sqrt() / root + 1e-5 : (square.sqrt() + 1e-5) / root;
                expected -= 0.01 / (1 - Math.Pow(options.Beta1, step)) * mean / divisor;
                Close.Assert(expected, optimizer.Parameters.@double(), relative: 1e-6, absolute: 1e-6, $"{matrix} + {vector}, step {step}");
            }
        }
    }

    [Fact]
    public void Bits_do_not_depend_on_the_number_of_threads()
    {
        int before = get_num_threads();
        (double Norm, float[] Values) Train(int threads)
        {
            set_num_threads(threads);
            using var scope = NewDisposeScope();
            using var generator = new Generator(7);
            using var module = new TwoParameters(randn([3, 50_001], generator: generator), randn([333], generator: generator));
            using var optimizer = new AdamW(new PlainOptions { WeightDecay = 0.1 }, module);
            optimizer.Gradients.normal_(0, 1, generator);
            optimizer.Step(0.01);
            return (optimizer.Step(0.01), optimizer.Parameters.data<float>().ToArray());
        }
        try
        {
            var one = Train(1);
            foreach (int threads in (int[])[2, 3])
            {
                var several = Train(threads);
                Assert.Equal(one.Norm, several.Norm);
                Assert.Equal(one.Values, several.Values);
            }
        }
        finally
        {
            set_num_threads(before);
        }
    }

    [Fact]
    public void A_step_allocates_next_to_nothing()
    {
        using var module = new TwoParameters(ones(3, 50_001), ones(333));
        using var optimizer = new AdamW(new PlainOptions { WeightDecay = 0.1 }, module);
        optimizer.Step(0.01);

        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int step = 0; step < 10; step++)
            optimizer.Step(0.01);

        Assert.InRange((GC.GetAllocatedBytesForCurrentThread() - before) / 10, 0, 4096);
    }

    private sealed class TwoParameters : Module
    {
        private readonly Parameter first, second;

        public TwoParameters(Tensor first, Tensor second) : base(nameof(TwoParameters))
        {
            this.first = Parameter(first.clone());
            this.second = Parameter(second.clone());
            RegisterComponents();
        }

        public Parameter First => first;

        public Parameter Second => second;
    }
}
