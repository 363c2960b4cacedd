using ML.Rlhf.Torch.Checkpoints;
using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Modules;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Modules;

public class EncoderTests
{
    public static TheoryData<string> Families => ["bert", "roberta"];

    [Theory, MemberData(nameof(Families))]
    public void Hidden_states_and_logits_equal_the_reference(string name)
    {
        using var noGrad = no_grad();
        var (model, golden) = Load(name);
        var expected = Golden.Tensors($"models/{name}/expected.safetensors");
        var (ids, mask, segments) = Inputs(golden);
        var real = golden["attention_mask"].Tensor().unsqueeze(-1);

        var states = model.States(ids, mask, segments).ToArray();

        Assert.Equal(expected["hidden_states"].shape[0], states.Length);
        for (int i = 0; i < states.Length; i++)
            Close.Assert(expected["hidden_states"][i], states[i] * real, absolute: 1e-5, relative: 1e-5, what: $"state {i}");
        Close.Assert(expected["logits"], model.Logits(model.Hidden(ids, mask, segments)) * real, absolute: 1e-4, what: "logit");
    }

    [Theory, MemberData(nameof(Families))]
    public void The_loss_and_the_gradient_norm_of_every_parameter_equal_the_reference(string name)
    {
        var (model, golden) = Load(name);
        var (ids, mask, segments) = Inputs(golden);
        var labels = golden["labels"].Tensor(ScalarType.Int64).flatten();
        var masked = labels.ge(0).nonzero().squeeze(-1);

        var hidden = model.Hidden(ids, mask, segments).flatten(0, 1).index_select(0, masked);
        var loss = LanguageModelLoss.CrossEntropySum(model.Logits(hidden), labels.index_select(0, masked)) / (double)masked.numel();
        loss.backward();

        Close.Assert(golden["mlm_loss"].Number, loss.ToDouble(), relative: 1e-6);
        var norms = golden["grad_norms_all"].Members.ToDictionary(member => member.Name, member => member.Value.Number);
        var gradients = model.CheckpointTensors().ToDictionary(t => t.Name, t => t.Target.grad!.norm().ToDouble());
        Assert.Equal(norms.Keys.Order(), gradients.Keys.Order());
        // The same number added to every key moves no attention weight, so that a key's bias has no gradient but rounding's.
        Assert.All(norms, norm => Close.Assert(norm.Value, gradients[norm.Key], relative: 1e-4, absolute: 1e-6, norm.Key));
        Close.Assert(golden["grad_norm_total"].Number, Math.Sqrt(gradients.Values.Sum(g => g * g)), relative: 1e-5);
    }

    [Theory, MemberData(nameof(Families))]
    public void The_number_of_parameters_is_known_from_the_shape(string name)
    {
        var (model, golden) = Load(name);

        Assert.Equal(golden["num_parameters"].Integer, model.Architecture.ParameterCount);
        Assert.Equal(model.Architecture.ParameterCount, model.parameters().Sum(p => p.numel()));
        Assert.Equal(model.parameters().Count(), model.CheckpointTensors().Count());
    }

    [Fact]
    public void Presets_have_the_published_sizes()
    {
        // Of the released checkpoints without the pooler, which masking does not train, and with the head.
        Assert.Equal(109_514_298, EncoderArchitecture.BertBase.ParameterCount);
        Assert.Equal(335_174_458, EncoderArchitecture.BertLarge.ParameterCount);
        Assert.Equal(124_697_433, EncoderArchitecture.RobertaBase.ParameterCount);
    }

    [Fact]
    public void A_row_has_the_same_states_alone_and_beside_longer_ones()
    {
        using var noGrad = no_grad();
        var model = Random();
        var ids = randint(1, 19, [1, 5], generator: new Generator(1, CPU));
        var alone = model.Hidden(ids);

        foreach (int padding in (int[])[1, 4, 11])
        {
            var padded = cat([ids, full([1, padding], 7, dtype: int64)], 1);
            var mask = Additive(arange(5 + padding).unsqueeze(0) < 5);
            Close.Assert(alone, model.Hidden(padded, mask)[.., ..5], absolute: 1e-5);
            Assert.True(Close.Distance(alone, model.Hidden(padded)[.., ..5]) > 1e-2); // the mask is what does it
        }
    }

    [Fact]
    public void Every_state_depends_on_every_token_and_on_its_place()
    {
        using var noGrad = no_grad();
        var model = Random();
        var ids = arange(1, 7).unsqueeze(0);
        var before = model.Hidden(ids);

        for (int t = 0; t < 6; t++)
        {
            var changed = ids.clone();
            changed[0, t] = 17;
            var moved = (model.Hidden(changed) - before).abs().amax([-1])[0];
            Assert.True(moved.min().ToDouble() > 1e-4, $"token {t}");
        }
        Assert.True(Close.Distance(before, model.Hidden(ids.flip(1)).flip(1)) > 1e-2);
    }

    [Fact]
    public void Dropout_acts_in_training_mode_only()
    {
        using var noGrad = no_grad();
        var model = Random();
        var ids = arange(1, 7).unsqueeze(0);
        var without = model.Hidden(ids);

        model.Dropout = 0.5;
        Close.Assert(without, model.Hidden(ids));
        model.train();
        Assert.True(Close.Distance(without, model.Hidden(ids)) > 1e-2);
    }

    [Fact]
    public void A_text_that_is_too_long_is_an_error()
    {
        Assert.Equal(
            "17 tokens do not fit the model's context of 16. Shorten the input, or use a model with a longer context. (Parameter 'ids')",
            Assert.Throws<ArgumentException>(() => Random().Hidden(zeros(1, 17, dtype: int64))).Message);
    }

    [Fact]
    public void A_pass_leaves_no_tensors()
    {
        var model = Random();
        var ids = arange(1, 7).unsqueeze(0);
        var mask = Additive(ids < 5);

        LiveTensors.AssertNoneLeftBy(() =>
        {
            using var hidden = model.Hidden(ids, mask);
            using var logits = model.Logits(hidden);
        });
    }

    [Fact]
    public void The_same_generator_gives_the_same_weights()
    {
        Encoder Fresh(ulong seed) => new(TinyEncoder.Architecture, new Generator(seed, CPU));
        var first = TinyGpt.Snapshot(Fresh(1));

        Assert.All(TinyGpt.Snapshot(Fresh(1)), p => Close.Assert(first[p.Key], p.Value, what: p.Key));
        Assert.Contains(TinyGpt.Snapshot(Fresh(2)), p => Close.Distance(first[p.Key], p.Value) > 1e-3);
        Close.Assert(0.02, first["word_embeddings.weight"].std().ToDouble(), relative: 0.2);
        Close.Assert(zeros(16), first["layer.0.intermediate.bias"][..16]);
    }

    [Fact]
    public void All_values_out_of_range_are_listed()
    {
        var bad = new EncoderArchitecture
        {
            Layers = 0, Heads = 2, Width = 3, FeedForwardWidth = 0, ContextLength = 2, VocabularySize = 1, SegmentTypes = 0,
            NormEpsilon = 0, PositionOffset = 1, TiedHead = false,
        };

        Assert.Equal(
            "EncoderArchitecture: Layers is 0, but must be from 1 to 10000; VocabularySize is 1, but must be from 2 to 16777216; " +
            "ContextLength is 2, but must be at least 3: a token, and one before and after the text; " +
            "Width is 3, but must be a positive multiple of Heads (2), at most 1048576; FeedForwardWidth is 0, but must be from 1 to " +
            "1048576; SegmentTypes is 0, but must be from 1 to 16777216; NormEpsilon is 0, but must be a finite number above 0; " +
            "PositionOffset is 1, but must be 0 for BERT; TiedHead is False, but must be true: the head of an encoder is its token " +
            "embedding.",
            Assert.Throws<ArgumentException>(bad.Validate).Message);
        Assert.Equal(
            "EncoderArchitecture: PositionOffset is 0, but must be from 1 to 16777216 for RoBERTa.",
            Assert.Throws<ArgumentException>((EncoderArchitecture.Nano with { Family = EncoderFamily.Roberta }).Validate).Message);
    }

    [Fact]
    public void The_shape_survives_as_JSON()
    {
        foreach (var shape in (EncoderArchitecture[])[EncoderArchitecture.Nano, EncoderArchitecture.RobertaBase])
            Assert.Equal(shape, LanguageModelArchitecture.FromJson(shape.ToJson()));
    }

    private static (Encoder Model, Golden Golden) Load(string name) =>
        (EncoderCheckpoint.Load(Golden.PathOf($"models/{name}")), Golden.Load($"models/{name}/expected.json"));

    private static (Tensor Ids, Tensor Mask, Tensor Segments) Inputs(Golden golden) =>
        (golden["input_ids"].Tensor(ScalarType.Int64), Additive(golden["attention_mask"].Tensor(ScalarType.Bool)),
            golden["token_type_ids"].Tensor(ScalarType.Int64));

    /// <summary>From which tokens are real (B, T) to 0 and −∞ (B, 1, 1, T).</summary>
    private static Tensor Additive(Tensor real) =>
        zeros(real.shape).masked_fill(real.logical_not(), double.NegativeInfinity).unsqueeze(1).unsqueeze(1);

    private static Encoder Random() => TinyEncoder.Random();
}
