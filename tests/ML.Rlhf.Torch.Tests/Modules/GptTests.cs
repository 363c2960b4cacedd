using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Modules;

public class GptTests
{
    [Fact]
    public void A_cache_filled_in_pieces_gives_the_logits_of_one_forward_pass()
    {
        using var noGrad = no_grad();
        var model = TinyGpt.Random(seed: 3);
        var ids = randint(0, model.Architecture.VocabularySize, [3, model.Architecture.ContextLength], generator: new Generator(1, CPU));
        var whole = model.Logits(model.Hidden(ids));

        using var cache = model.CreateCache(rows: 3, capacity: model.Architecture.ContextLength);
        List<Tensor> pieces = [model.Hidden(ids[.., ..7], cache: cache)];
        for (int t = 7; t < model.Architecture.ContextLength; t++)
            pieces.Add(model.Hidden(ids[.., t..(t + 1)], cache: cache));

        Close.Assert(whole, model.Logits(cat(pieces, 1)), absolute: 1e-5, what: "logit");
    }

    [Fact]
    public void Padding_on_the_right_changes_no_real_logit()
    {
        using var noGrad = no_grad();
        var model = TinyGpt.Random(seed: 4);
        var ids = randint(0, model.Architecture.VocabularySize, [2, 9], generator: new Generator(2, CPU));
        var alone = model.Hidden(ids);

        foreach (int padding in (int[])[1, 5, 15])
        {
            var padded = cat([ids, full([2, padding], 7, dtype: int64)], 1);
            Close.Assert(alone, model.Hidden(padded)[.., ..9], absolute: 1e-5);
        }
    }

    [Fact]
    public void No_state_depends_on_a_later_token()
    {
        using var noGrad = no_grad();
        var model = TinyGpt.Random(seed: 5);
        var ids = randint(0, model.Architecture.VocabularySize, [1, 8], generator: new Generator(3, CPU));
        var before = model.Hidden(ids);
        for (int t = 1; t < 8; t++)
        {
            var changed = ids.clone();
            changed[0, t] = (changed[0, t] + 1) % model.Architecture.VocabularySize;
            var after = model.Hidden(changed);

            Close.Assert(before[.., ..t], after[.., ..t], absolute: 1e-6);
            Assert.True(Close.Distance(before[.., t..], after[.., t..]) > 1e-3, $"token {t} changes nothing at all");
        }
    }

    [Fact]
    public void Parameters_have_GPT2s_names_and_as_many_numbers_as_the_architecture_says()
    {
        var model = TinyGpt.Fresh();

        string[] block = ["ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight", "attn.c_proj.bias",
            "ln_2.weight", "ln_2.bias", "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias"];
        string[] expected = ["wte.weight", "wpe.weight", .. block.Select(n => "h.0." + n), .. block.Select(n => "h.1." + n), "ln_f.weight",
            "ln_f.bias"];
        Assert.Equal(expected.Order(), model.named_parameters().Select(p => p.name).Order());
        Assert.Equal(model.Architecture.ParameterCount, model.parameters().Sum(p => p.numel()));
        Assert.Equal(124_439_808, GptArchitecture.Gpt2.ParameterCount); // GPT-2's published checkpoint
    }

    [Fact]
    public void Initial_weights_have_GPT2s_deviations_and_come_from_the_generator_alone()
    {
        var model = TinyGpt.Fresh(seed: 6, GptArchitecture.Micro);

        foreach (var (name, parameter) in model.named_parameters())
        {
            double deviation = name.EndsWith("c_proj.weight") ? 0.02 / Math.Sqrt(8) : parameter.ndim == 2 ? 0.02 : 0;
            double mean = parameter.ndim == 1 && name.EndsWith("weight") ? 1 : 0;
            Close.Assert(deviation, parameter.std(unbiased: false).ToDouble(), relative: 0.02, what: name);
            Close.Assert(mean, parameter.mean().ToDouble(), absolute: 0.001, what: name);
        }

        AssertSameWeights(model, TinyGpt.Fresh(seed: 6, GptArchitecture.Micro));
        Assert.True(Close.Distance(model.parameters().First(), TinyGpt.Fresh(seed: 7, GptArchitecture.Micro).parameters().First()) > 0.01);
    }

    [Fact]
    public void A_fresh_model_is_nearly_uniform_over_its_vocabulary()
    {
        using var noGrad = no_grad();
        var model = TinyGpt.Fresh();
        var ids = arange(10).unsqueeze(0);

        var loss = NextTokenLoss.Sum(model, ids, positions: null, arange(1, 11)) / 10;

        Close.Assert(Math.Log(model.Architecture.VocabularySize), loss.ToDouble(), absolute: 0.05);
    }

    [Fact]
    public void A_clone_has_the_weights_and_the_mode_and_shares_no_storage()
    {
        var model = TinyGpt.Random();
        model.Dropout = 0.25;
        model.train();

        var clone = model.Clone();

        Assert.True(clone.training);
        Assert.Equal(0.25, clone.Dropout);
        AssertSameWeights(model, clone);
        using (no_grad())
            foreach (var parameter in clone.parameters())
                parameter.zero_();
        AssertSameWeights(model, TinyGpt.Random());
    }

    [Fact]
    public void Dropout_acts_while_training_only()
    {
        using var noGrad = no_grad();
        var model = TinyGpt.Random();
        var ids = arange(10).unsqueeze(0);
        var without = model.Hidden(ids);

        model.Dropout = 0.5;
        Close.Assert(without, model.Hidden(ids));
        model.train();
        Assert.True(Close.Distance(without, model.Hidden(ids)) > 0.01);
    }

    [Fact]
    public void More_tokens_than_the_context_are_refused_with_both_numbers()
    {
        var model = TinyGpt.Fresh();

        var error = Assert.Throws<ArgumentException>(() => model.Hidden(zeros([1, 25], int64)));

        Assert.Equal("25 tokens do not fit the model's context of 24. Shorten the input, or use a model with a longer context.",
            error.Message);
    }

    [Fact]
    public void Several_tokens_after_a_filled_cache_need_a_mask()
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        var model = TinyGpt.Random();
        using var cache = model.CreateCache(rows: 1, capacity: 5);
        model.Hidden(tensor(new long[,] { { 1, 2, 3 } }), cache: cache);

        var error = Assert.Throws<ArgumentException>(() => model.Hidden(tensor(new long[,] { { 4, 5 } }), cache: cache));

        Assert.StartsWith("2 tokens follow 3 in the cache without a mask", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_cache_that_is_full_says_so()
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        var model = TinyGpt.Random();
        using var cache = model.CreateCache(rows: 1, capacity: 2);
        model.Hidden(tensor(new long[,] { { 1, 2 } }), cache: cache);

        var error = Assert.Throws<ArgumentException>(() => model.Hidden(tensor(new long[,] { { 3 } }), cache: cache));

        Assert.StartsWith("3 tokens do not fit the cache's capacity of 2", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void An_architecture_reports_all_its_problems_at_once()
    {
        var wrong = new GptArchitecture { Layers = 0, Heads = 3, Width = 16, ContextLength = 1, VocabularySize = 1 };

        var error = Assert.Throws<ArgumentException>(() => new Gpt(wrong));

        Assert.Equal(
            "GptArchitecture: Layers is 0, but must be from 1 to 10000; ContextLength is 1, but must be from 2 to 16777216; " +
            "VocabularySize is 1, but must be from 2 to 16777216; Width is 16, but must be a positive multiple of Heads (3), at most " +
            "1048576.", error.Message);
    }

    [Fact]
    public void An_architecture_survives_its_file_and_a_damaged_file_says_so()
    {
        Assert.Equal(GptArchitecture.Mini, GptArchitecture.FromJson(GptArchitecture.Mini.ToJson()));

        byte[] json = GptArchitecture.Mini.ToJson();
        for (int length = 0; length < json.Length - 1; length++)
            Assert.Throws<FormatException>(() => GptArchitecture.FromJson(json.AsSpan(0, length)));
        Assert.Throws<FormatException>(() => GptArchitecture.FromJson("null"u8));
        Assert.Throws<FormatException>(() => GptArchitecture.FromJson("[]"u8));
        Assert.Throws<FormatException>(() => GptArchitecture.FromJson("""{"Layers": 1, "Layers": 1}"""u8));
        Assert.Throws<FormatException>(() => GptArchitecture.FromJson("""{"Layers": 1}"""u8));
    }

    [Fact]
    public void An_architecture_that_names_no_family_is_a_GPT_from_before_there_were_others() => Assert.Equal(
        GptArchitecture.Nano, GptArchitecture.FromJson(
            """{"Layers": 3, "Heads": 3, "Width": 48, "ContextLength": 64, "VocabularySize": 512}"""u8));

    private static void AssertSameWeights(Gpt expected, Gpt actual)
    {
        foreach (var ((name, a), (_, b)) in expected.named_parameters().Zip(actual.named_parameters()))
            Close.Assert(a, b, what: name);
    }

    /// <summary>(B, 1, T, T): 0 to attend, −∞ to hide. A padding position attends to itself, so that no row is empty.</summary>
}
