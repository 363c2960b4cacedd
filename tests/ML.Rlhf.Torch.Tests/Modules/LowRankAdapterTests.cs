using System.Text;
using ML.Rlhf.Torch.Checkpoints;
using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Modules;

public class LowRankAdapterTests
{

    public static TheoryData<string> Families => ["gpt2", "llama-untied", "qwen2", "qwen3", "mistral"];

    public static TheoryData<string> GoldenAdapters => ["gpt2", "llama-untied"];

    [Theory]
    [MemberData(nameof(GoldenAdapters))]
    public void Logits_loss_and_gradients_of_adapters_equal_the_reference(string name)
    {
        var (inputs, expected) = (Golden.Load($"models/{name}/expected.json"), Golden.Load($"lora/{name}/expected.json"));
        using var model = GoldenModel.Load($"models/{name}");
        PeftAdapter.Read(Golden.PathOf($"lora/{name}"), model);

        var real = inputs["attention_mask"].Tensor();
        var hidden = model.Hidden(
            inputs["input_ids"].Tensor(ScalarType.Int64), inputs["position_ids"].Tensor(ScalarType.Int64),
            GoldenModelTests.LeftPaddingMask(real));
        var logits = model.Logits(hidden) * real.unsqueeze(-1);
        Close.Assert(Golden.Tensors($"lora/{name}/expected.safetensors")["logits"], logits, relative: 1e-5, absolute: 1e-5, "logit");

        var (loss, _) = GoldenModelTests.Loss(model, inputs);
        loss.backward();
        Close.Assert(expected["lm_loss"].Number, loss.ToDouble(), relative: 1e-6);
        var norms = model.Adapters.SelectMany(adapter => PeftAdapter.Tensors(model, adapter))
            .ToDictionary(t => t.Name, t => t.Tensor.grad!.norm().ToDouble());
        Assert.Equal(expected["grad_norms"].Members.Select(m => m.Name).Order(), norms.Keys.Order());
        Assert.All(norms, n => Close.Assert(expected["grad_norms"][n.Key].Number, n.Value, relative: 1e-4, what: n.Key));
        Assert.All(model.BaseParameters(), p => Assert.Null(p.Parameter.grad));
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void An_adapter_changes_no_bit_before_it_has_learned(string name)
    {
        using var noGrad = no_grad();
        using var model = GoldenModel.Load($"models/{name}");
        var before = Logits(model);

        Attach(model, new LoraOptions());

        Assert.True(model.HasAdapters);
        Close.AssertSameBits(before, Logits(model));
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void Merged_weights_give_the_same_logits_and_can_all_be_trained(string name)
    {
        using var noGrad = no_grad();
        using var model = GoldenModel.Load($"models/{name}");
        var before = Logits(model);
        Attach(model, new LoraOptions { Rank = 3, Alpha = 4 }, disturb: true);

        using var merged = model.Clone();

        Assert.False(merged.HasAdapters);
        Assert.All(merged.parameters(), p => Assert.True(p.requires_grad));
        Assert.True(Close.Distance(before, Logits(model)) > 0.01, "the adapters do nothing");
        Close.Assert(Logits(model), Logits(merged), relative: 1e-5, absolute: 1e-5, "logit");
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void A_model_that_shares_weights_has_no_second_copy_of_any_and_ignores_adapters(string name)
    {
        using var noGrad = no_grad();
        using var model = GoldenModel.Load($"models/{name}");
        var before = Logits(model);

        using var shared = model.ShareWeights();
        Attach(shared, new LoraOptions(), disturb: true);
        using var reference = shared.ShareWeights();

        Assert.All(model.parameters().Zip(shared.BaseParameters()), pair => Assert.True(IsSame(pair.First, pair.Second.Parameter)));
        Assert.All(model.parameters().Zip(reference.parameters()), pair => Assert.True(IsSame(pair.First, pair.Second)));
        Assert.All(model.parameters(), p => Assert.True(p.requires_grad));
        Assert.All(shared.BaseParameters().Select(p => p.Parameter).Concat(reference.parameters()), p => Assert.False(p.requires_grad));
        Assert.False(reference.training);
        Close.AssertSameBits(before, Logits(reference));
        Close.AssertSameBits(before, Logits(model));
        Assert.True(Close.Distance(before, Logits(shared)) > 0.01);
    }

    [Fact]
    public void Shared_weights_live_as_long_as_one_of_their_models()
    {
        using var noGrad = no_grad();
        var model = TinyGpt.Random();
        var before = Logits(model);
        var shared = model.ShareWeights();
        var second = shared.ShareWeights();

        model.Dispose();
        second.Dispose();
        rand(100_000); // would take freed memory

        Close.AssertSameBits(before, Logits(shared));
        shared.Dispose();
    }

    [Fact]
    public void Sharing_adapting_merging_and_disposing_leave_no_tensor_behind()
    {
        using var model = TinyGpt.Random();
        LiveTensors.AssertNoneLeftBy(() =>
        {
            using var scope = NewDisposeScope();
            using var noGrad = no_grad();
            using var shared = model.ShareWeights();
            Attach(shared, new LoraOptions());
            using var merged = shared.Clone();
            Logits(shared);
        });
    }

    [Fact]
    public void A_starts_uniform_within_one_over_the_root_of_its_width_B_at_zero_and_a_seed_gives_the_same_numbers()
    {
        using var model = TinyGpt.Fresh(architecture: TinyGpt.Architecture with { Width = 64 });
        using var again = model.ShareWeights();
        using var other = model.ShareWeights();
        Attach(model, new LoraOptions { Rank = 32 });
        Attach(again, new LoraOptions { Rank = 32 });
        Attach(other, new LoraOptions { Rank = 32 }, seed: 2);

        Assert.All(model.Adapters, adapter =>
        {
            double bound = 1 / Math.Sqrt(adapter.A.shape[1]);
            Assert.InRange(adapter.A.abs().max().ToDouble(), 0.95 * bound, bound);
            Close.Assert(bound / Math.Sqrt(3), adapter.A.std().ToDouble(), relative: 0.1);
            Assert.Equal(0, adapter.B.abs().max().ToDouble());
        });
        Assert.All(model.Adapters.Zip(again.Adapters), pair => Close.AssertSameBits(pair.First.A, pair.Second.A));
        Assert.All(model.Adapters.Zip(other.Adapters), pair => Assert.True(Close.Distance(pair.First.A, pair.Second.A) > 0.01));
    }

    [Theory]
    [InlineData("gpt2", "", 12)]                       // 3 layers × c_attn, c_proj, c_fc, c_proj
    [InlineData("gpt2", "c_proj", 6)]
    [InlineData("gpt2", "attn.c_proj", 3)]
    [InlineData("gpt2", "h.1.attn.c_proj c_fc", 4)]
    [InlineData("llama-untied", "", 14)]               // 2 layers × q, k, v, o, gate, up, down; not the head
    [InlineData("llama-untied", "q_proj lm_head", 3)]
    public void Targets_are_last_parts_of_names_or_whole_ones(string name, string targets, int adapters)
    {
        using var model = GoldenModel.Load($"models/{name}");

        Attach(model, new LoraOptions { Targets = targets.Length > 0 ? targets.Split(' ') : null });

        Assert.Equal(adapters, model.Adapters.Count());
        Assert.All(model.Adapters, adapter => Assert.True(adapter.A.requires_grad && adapter.B.requires_grad));
        Assert.Equal(2 * adapters, model.parameters().Count(p => p.requires_grad));
        Assert.Equal(2 * adapters, model.named_parameters().Count(p => p.name.Contains(".lora.")));
    }

    [Fact]
    public void The_head_of_an_LSTM_can_have_an_adapter()
    {
        using var noGrad = no_grad();
        using var generator = new Generator(1, CPU);
        using var model = new Lstm(TinyLstm.Architecture with { TiedHead = false }, generator);
        var before = Logits(model);

        Attach(model, new LoraOptions { Targets = ["lm_head"] }, disturb: true);

        Assert.True(Close.Distance(before, Logits(model)) > 0.01, "the adapter does nothing");
    }

    [Fact]
    public void A_target_that_the_model_does_not_have_names_those_that_it_has()
    {
        using var model = TinyGpt.Fresh();

        var error = Assert.Throws<ArgumentException>(() =>
            model.AdapterShapes(new LoraOptions { Targets = ["c_attn", "q_proj", "lm_head"] }));

        Assert.Equal(
            "Lora.Targets: q_proj, lm_head is no linear layer that adapters fit. A Gpt of this shape has c_attn, c_proj, c_fc; name some " +
            "of these, by their last part or by the whole path, or none for all of them.", error.Message);
    }

    [Fact]
    public void Dropout_acts_while_training_only()
    {
        using var noGrad = no_grad();
        using var model = TinyGpt.Random();
        Attach(model, new LoraOptions { Dropout = 0.5 }, disturb: true);
        var first = Logits(model);

        Close.AssertSameBits(first, Logits(model));
        model.train();
        Assert.True(Close.Distance(first, Logits(model)) > 0.01);
        model.eval();
        Close.AssertSameBits(first, Logits(model));
    }

    [Fact]
    public void A_pretrained_folder_gets_the_merged_weights()
    {
        using var noGrad = no_grad();
        using var model = GoldenModel.Load("models/qwen2");
        Attach(model, new LoraOptions { Rank = 3 }, disturb: true);
        string folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;
        try
        {
            Pretrained.Save(model, folder);
            using var loaded = Pretrained.LanguageModel(folder);

            Close.Assert(Logits(model), Logits(loaded), relative: 1e-5, absolute: 1e-5, "logit");
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    [Theory]
    [InlineData("null")]
    [InlineData("[null]")]
    [InlineData("""[{"Target": null, "Rank": 1, "Alpha": 1, "Dropout": 0}]""")]
    [InlineData("""[{"Target": "c_attn", "Rank": 0, "Alpha": 1, "Dropout": 0}]""")]
    [InlineData("""[{"Target": "c_attn", "Rank": 1, "Alpha": -1, "Dropout": 0}]""")]
    [InlineData("""[{"Target": "c_attn", "Rank": 1, "Alpha": 1, "Dropout": 1}]""")]
    [InlineData("""[{"Target": "x", "Rank": 1, "Alpha": 1, "Dropout": 0}, {"Target": "x", "Rank": 1, "Alpha": 1, "Dropout": 0}]""")]
    public void A_list_of_adapters_with_wrong_values_is_an_error(string json) => Assert.StartsWith(
        "adapter.json is no valid list of adapters: ",
        Assert.Throws<FormatException>(() => AdapterShape.FromJson(Encoding.UTF8.GetBytes(json))).Message, StringComparison.Ordinal);

    [Fact]
    public void Adapters_are_counted_before_memory_is_asked_for()
    {
        using var model = TinyGpt.Fresh();
        AdapterShape Shape(string target) => new(target, 1_000_000_000, 1, 0);

        Assert.Equal(1_000_000_000L * (16 + 48), model.AdapterParameterCount([Shape("h.0.attn.c_attn")]));
        Assert.StartsWith(
            "An adapter is for 'h.2.attn.c_attn', which is no linear layer of the model.",
            Assert.Throws<FormatException>(() => model.AdapterParameterCount([Shape("h.2.attn.c_attn")])).Message,
            StringComparison.Ordinal);
    }

    /// <summary>Adapters as training starts with them or, disturbed, as it could leave them.</summary>
    internal static void Attach(CausalLanguageModel model, LoraOptions options, bool disturb = false, int seed = 1)
    {
        using var generator = new Generator((ulong)seed, CPU);
        foreach (var adapter in model.AttachAdapters(model.AdapterShapes(options), generator))
        {
            using var noGrad = no_grad();
            using var scope = NewDisposeScope();
            if (disturb)
                adapter.B.add_(randn(adapter.B.shape, generator: generator) * 0.1);
        }
    }

    internal static Tensor Logits(CausalLanguageModel model)
    {
        using var scope = NewDisposeScope();
        var ids = tensor(new long[,] { { 3, 1, 4, 1, 5, 9 }, { 2, 6, 5, 3, 5, 8 } });
        return model.Logits(model.Hidden(ids)).MoveToOuterDisposeScope();
    }

    /// <summary>Whether the numbers of two tensors are the same memory.</summary>
    internal static bool IsSame(Tensor a, Tensor b) =>
        a.shape.SequenceEqual(b.shape) && a.bytes.Overlaps(b.bytes, out int distance) && distance == 0;
}
