using ML.Rlhf.Torch.Generation;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Modules;

public class LstmTests
{
    private static readonly Golden s_golden = Golden.Load("lstm/lstm.json");

    public static TheoryData<int> Cases => [.. Enumerable.Range(0, s_golden["cases"].Items.Count())];

    [Theory]
    [MemberData(nameof(Cases))]
    public void Logits_and_states_equal_PyTorchs(int number)
    {
        using var noGrad = no_grad();
        var golden = s_golden["cases"][number];
        var model = FromGolden(golden);
        Assert.Equal(golden["num_parameters"].Integer, model.Architecture.ParameterCount);
        foreach (var row in golden["rows"].Items)
        {
            var ids = row["tokens"].Tensor(ScalarType.Int64).unsqueeze(0);
            using var state = (LstmState)model.CreateCache(rows: 1, capacity: 0);

            Close.Assert(row["logits"].Tensor(), model.Logits(model.Hidden(ids, cache: state))[0], relative: 1e-5, absolute: 1e-6, "logit");
            for (int layer = 0; layer < model.Architecture.Layers; layer++)
            {
                Close.Assert(row["h"].Tensor()[layer], state[layer].Output[0], relative: 1e-5, absolute: 1e-6, $"h of layer {layer}");
                Close.Assert(row["c"].Tensor()[layer], state[layer].Memory[0], relative: 1e-5, absolute: 1e-6, $"c of layer {layer}");
            }
        }
    }

    /// <summary>Padded on the right as our trainers batch them, in the fused kernel; or in one sequence, token by token.</summary>
    [Theory]
    [InlineData(0, false)]
    [InlineData(0, true)]
    [InlineData(1, false)]
    [InlineData(1, true)]
    public void The_loss_and_the_gradient_norm_of_every_parameter_equal_PyTorchs(int number, bool packed)
    {
        var golden = s_golden["cases"][number];
        var model = FromGolden(golden);
        var sequences = new TokenSequences();
        foreach (var row in golden["rows"].Items)
            sequences.Add(row["tokens"].Integers);
        var data = new CompletionData(sequences, [1, 1, 1]);

        var loss = packed ? PackedSum(model, data, [0, 1, 2]) : PaddedSum(model, data, [0, 1, 2]);
        (loss / (double)(sequences.TokenCount - 3)).backward();

        Close.Assert(golden["loss"].Number, loss.ToDouble() / (sequences.TokenCount - 3), relative: 1e-6);
        Assert.All(model.named_parameters(), p => Close.Assert(
            golden["gradient_norms"][NameThere(p.name)].Number, p.parameter.grad!.norm().ToDouble(), relative: 1e-5, what: p.name));
    }

    [Fact]
    public void A_cache_filled_in_pieces_gives_the_logits_of_one_forward_pass()
    {
        using var noGrad = no_grad();
        var model = TinyLstm.Random(seed: 3);
        var ids = RandomIds(3, model.Architecture.ContextLength);
        var whole = model.Logits(model.Hidden(ids));

        using var cache = model.CreateCache(rows: 3, capacity: model.Architecture.ContextLength);
        List<Tensor> pieces = [model.Hidden(ids[.., ..7], cache: cache)];
        for (int t = 7; t < model.Architecture.ContextLength; t++)
            pieces.Add(model.Hidden(ids[.., t..(t + 1)], cache: cache));

        Close.Assert(whole, model.Logits(cat(pieces, 1)), absolute: 1e-5, what: "logit");
        Assert.Equal(model.Architecture.ContextLength, cache.Length);
    }

    [Fact]
    public void Kept_rows_go_on_where_they_were()
    {
        using var noGrad = no_grad();
        var model = TinyLstm.Random(seed: 8);
        var ids = RandomIds(4, 6);
        using var cache = model.CreateCache(rows: 4, capacity: 6);
        model.Hidden(ids[.., ..5], cache: cache);
        var kept = tensor([3L, 1]);

        cache.Keep([3, 1]);

        Close.Assert(
            model.Hidden(ids)[.., 5..].index_select(0, kept), model.Hidden(ids[.., 5..].index_select(0, kept), cache: cache),
            absolute: 1e-6);
    }

    [Fact]
    public void Padding_on_the_right_changes_no_real_state()
    {
        using var noGrad = no_grad();
        var model = TinyLstm.Random(seed: 4);
        var ids = RandomIds(2, 9);
        var alone = model.Hidden(ids);

        foreach (int padding in (int[])[1, 5, 15])
            Close.Assert(alone, model.Hidden(cat([ids, full([2, padding], 7, dtype: int64)], 1))[.., ..9], absolute: 1e-6);
    }

    /// <summary>Padding, and a text of one token, and texts one after another: what stands before a text is forgotten.</summary>
    [Fact]
    public void A_text_begins_at_each_position_0()
    {
        using var noGrad = no_grad();
        var model = TinyLstm.Random(seed: 9);
        var ids = RandomIds(2, 8);
        var positions = tensor(new long[,] { { 0, 0, 0, 1, 2, 3, 4, 5 }, { 0, 1, 2, 0, 0, 1, 2, 3 } });
        using var cache = model.CreateCache(rows: 2, capacity: 8);

        var hidden = model.Hidden(ids, positions, mask: zeros(2, 1, 8, 8), cache);

        foreach (var (row, start, end) in new[] { (0, 2, 8), (1, 0, 3), (1, 3, 4), (1, 4, 8) })
        {
            using var alone = model.CreateCache(rows: 1, capacity: 8);
            Close.Assert(model.Hidden(ids[row..(row + 1), start..end], cache: alone), hidden[row..(row + 1), start..end], absolute: 1e-6);
            if (end == 8)
            {
                Close.Assert(((LstmState)alone)[1].Memory[0], ((LstmState)cache)[1].Memory[row], absolute: 1e-6);
                Close.Assert(((LstmState)alone)[0].Output[0], ((LstmState)cache)[0].Output[row], absolute: 1e-6);
            }
        }
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    public void Prompts_of_any_lengths_are_completed_together_as_one_by_one(float temperature)
    {
        var model = TinyLstm.Random(seed: 10);
        int[][] prompts = [[3], [1, 4, 1, 5, 9, 2, 6], [5, 3, 5, 8], [9, 7], [9, 7, 9, 3, 2, 3, 8]];
        var options = new SamplingOptions { Temperature = temperature, MaxNewTokens = 12 };
        SampledTokens[] Generate(int end, params int[] rows) => Sampler.Generate(
            model, [.. rows.Select(i => prompts[i])], [.. rows.Select(i => new RandomStream(1, (ulong)i))], end, options,
            withLogProbabilities: true);
        int end = Generate(-1, 1)[0].Tokens[4]; // row 1 at least ends before its limit

        var together = Generate(end, 0, 1, 2, 3, 4);

        Assert.True(together.Select(t => t.Tokens.Length).Distinct().Count() > 1, "rows should leave the batch at different times");
        for (int i = 0; i < prompts.Length; i++)
        {
            var alone = Generate(end, i)[0];
            Assert.Equal(alone.Tokens, together[i].Tokens);
            Assert.All(alone.LogProbabilities.Zip(together[i].LogProbabilities), p => Close.Assert(p.First, p.Second, absolute: 1e-5));
        }
    }

    [Fact]
    public void No_state_depends_on_a_later_token()
    {
        using var noGrad = no_grad();
        var model = TinyLstm.Random(seed: 5);
        var ids = RandomIds(1, 8);
        var before = model.Hidden(ids);
        for (int t = 1; t < 8; t++)
        {
            var changed = ids.clone();
            changed[0, t] = (changed[0, t] + 1) % model.Architecture.VocabularySize;
            var after = model.Hidden(changed);

            Close.Assert(before[.., ..t], after[.., ..t], absolute: 1e-7);
            Assert.True(Close.Distance(before[.., t..], after[.., t..]) > 1e-3, $"token {t} changes nothing at all");
        }
    }

    [Fact]
    public void Packing_changes_neither_loss_nor_gradient()
    {
        var data = TinyData.Completions(12);
        int[] rows = [7, 1, 4, 11, 0, 3];
        var model = TinyLstm.Random();

        var packed = PackedSum(model, data, rows);
        packed.backward();
        var packedGradients = model.parameters().Select(p => p.grad!.clone()).ToArray();
        model.zero_grad();
        var padded = PaddedSum(model, data, rows);
        padded.backward();

        Close.Assert(padded, packed, relative: 1e-5);
        Assert.All(model.parameters().Zip(packedGradients), p => Close.Assert(p.First.grad!, p.Second, relative: 1e-4, absolute: 1e-5));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Parameters_are_as_many_as_the_architecture_says(bool tied)
    {
        var model = TinyLstm.Fresh(architecture: TinyLstm.Architecture with { TiedHead = tied, Layers = 3 });

        Assert.Equal(model.Architecture.ParameterCount, model.parameters().Sum(p => p.numel()));
    }

    [Fact]
    public void Presets_have_the_size_context_and_vocabulary_of_the_GPT_of_the_same_name()
    {
        foreach (var (lstm, gpt) in new[]
        {
            (LstmArchitecture.Nano, GptArchitecture.Nano), (LstmArchitecture.Micro, GptArchitecture.Micro),
            (LstmArchitecture.Mini, GptArchitecture.Mini), (LstmArchitecture.Small, GptArchitecture.Small),
        })
        {
            Assert.InRange(lstm.ParameterCount / (double)gpt.ParameterCount, 0.97, 1.03);
            Assert.Equal((gpt.ContextLength, gpt.VocabularySize), (lstm.ContextLength, lstm.VocabularySize));
        }
    }

    [Fact]
    public void Initial_weights_come_from_the_generator_alone_and_forget_gates_begin_open()
    {
        var architecture = LstmArchitecture.Micro;
        var model = TinyLstm.Fresh(seed: 6, architecture);
        int width = architecture.Width;

        foreach (var (name, parameter) in model.named_parameters())
        {
            if (parameter.ndim == 2)
            {
                double deviation = name == "wte.weight" ? 0.3 : 1 / Math.Sqrt(3.0 * width);
                Close.Assert(deviation, parameter.std().ToDouble(), relative: 0.02, what: name);
                Close.Assert(0, parameter.mean().ToDouble(), absolute: 0.003, what: name);
                if (name != "wte.weight")
                    Assert.InRange(parameter.abs().max().ToDouble(), 0.99 / Math.Sqrt(width), 1 / Math.Sqrt(width));
            }
            else
            {
                var expected = zeros(4 * width);
                if (name.EndsWith("bias_ih_l0", StringComparison.Ordinal))
                    expected[width..(2 * width)] = 1;
                Close.Assert(expected, parameter, what: name);
            }
        }

        rand(100); // somebody else uses libtorch's generator in between
        Assert.All(Weights(model).Zip(Weights(TinyLstm.Fresh(seed: 6, architecture))), p => Close.Assert(p.First, p.Second));
        Assert.True(Close.Distance(Weights(model)[1], Weights(TinyLstm.Fresh(seed: 7, architecture))[1]) > 0.01);
    }

    [Fact]
    public void A_fresh_model_is_nearly_uniform_over_its_vocabulary()
    {
        using var noGrad = no_grad();
        var model = TinyLstm.Fresh();

        var loss = NextTokenLoss.Sum(model, arange(10).unsqueeze(0), positions: null, arange(1, 11)) / 10;

        Close.Assert(Math.Log(model.Architecture.VocabularySize), loss.ToDouble(), absolute: 0.05);
    }

    [Fact]
    public void A_clone_has_the_weights_and_the_mode_and_shares_no_storage()
    {
        var model = TinyLstm.Random();
        model.Dropout = 0.25;
        model.train();

        var clone = model.Clone();

        Assert.True(clone.training);
        Assert.Equal(0.25, clone.Dropout);
        Assert.All(Weights(model).Zip(Weights(clone)), p => Close.Assert(p.First, p.Second));
        using (no_grad())
            foreach (var parameter in clone.parameters())
                parameter.zero_();
        Assert.All(Weights(model).Zip(Weights(TinyLstm.Random())), p => Close.Assert(p.First, p.Second));
    }

    /// <summary>Zaremba et al. 2014: what goes from one token to the next is never dropped, what goes up is.</summary>
    [Fact]
    public void Dropout_acts_between_layers_and_while_training_only()
    {
        using var noGrad = no_grad();
        var model = TinyLstm.Random();
        var ids = arange(19).unsqueeze(0);
        var without = model.Hidden(ids);

        model.Dropout = 0.5;
        Close.Assert(without, model.Hidden(ids));
        model.train();
        var dropped = model.Hidden(ids);
        Assert.InRange((dropped == 0).to(float32).mean().ToDouble(), 0.4, 0.6); // of the last layer's outputs
        Assert.True(Close.Distance(dropped, 2 * without * (dropped != 0)) > 0.01); // and of what went in below
        model.Dropout = 0.999999;
        using var cache = (LstmState)model.CreateCache(rows: 1, capacity: 19);
        model.Hidden(ids, cache: cache);
        Assert.True(cache[1].Output.abs().min().ToDouble() > 0, "the state was dropped");
    }

    [Fact]
    public void A_trace_has_the_states_of_each_layer_and_no_attention()
    {
        using var noGrad = no_grad();
        var model = TinyLstm.Random();
        var trace = new ForwardTrace();

        var hidden = model.Hidden(RandomIds(2, 5), positions: null, mask: null, cache: null, trace);

        Assert.Equal(3, trace.HiddenStates.Count);
        Close.Assert(hidden, trace.HiddenStates[^1]);
        Assert.Empty(trace.AttentionWeights);
    }

    [Fact]
    public void Reading_and_generating_leave_no_tensors_behind()
    {
        var model = TinyLstm.Random();
        var ids = RandomIds(2, 6);
        var positions = zeros([2, 6], int64);
        var mask = zeros(2, 1, 6, 6);

        LiveTensors.AssertNoneLeftBy(() => model.Hidden(ids).Dispose());
        LiveTensors.AssertNoneLeftBy(() => model.Hidden(ids, positions, mask).Dispose());
        LiveTensors.AssertNoneLeftBy(() => Sampler.Generate(
            model, [[1, 2, 3], [4]], [new RandomStream(1), new RandomStream(2)], stop: 17, new SamplingOptions { MaxNewTokens = 5 }));
        LiveTensors.AssertNoneLeftBy(() => TinyLstm.Fresh().Dispose());
    }

    [Fact]
    public void An_architecture_survives_its_file_and_reports_all_its_problems_at_once()
    {
        var architecture = LstmArchitecture.Mini with { TiedHead = false };
        Assert.Equal(architecture, LanguageModelArchitecture.FromJson(architecture.ToJson()));
        Assert.Contains("\"family\": \"lstm\"", System.Text.Encoding.UTF8.GetString(architecture.ToJson()), StringComparison.Ordinal);

        var wrong = new LstmArchitecture { Layers = 0, Width = 0, ContextLength = 1, VocabularySize = 1 };
        Assert.Equal(
            "LstmArchitecture: Layers is 0, but must be from 1 to 10000; ContextLength is 1, but must be from 2 to 16777216; " +
            "VocabularySize is 1, but must be from 2 to 16777216; Width is 0, but must be from 1 to 1048576.",
            Assert.Throws<ArgumentException>(() => new Lstm(wrong)).Message);
    }

    [Fact]
    public void There_is_no_Hugging_Face_form() => Assert.Equal(
        "An LSTM has no form in Hugging Face's layout: transformers knows no such model. Save it with ml.Model.Save.",
        Assert.Throws<NotSupportedException>(() => TinyLstm.Fresh().CheckpointTensors()).Message);

    private static Tensor PaddedSum(CausalLanguageModel model, CompletionData data, int[] rows)
    {
        var (ids, places, labels) = NextTokenLoss.CompletionBatch(data, rows, CPU, promptsToo: false);
        return NextTokenLoss.Sum(model, ids, places, labels);
    }

    private static Tensor PackedSum(CausalLanguageModel model, CompletionData data, int[] rows)
    {
        var (ids, layout, places, labels) = PackedBatch.Create(data, rows, model.Architecture.ContextLength, CPU, promptsToo: false);
        Assert.InRange(ids.shape[0], 1, rows.Length - 1); // else nothing was packed
        return NextTokenLoss.Sum(model, ids, places, labels, layout);
    }

    private static Tensor RandomIds(long rows, long tokens) =>
        randint(0, TinyLstm.Architecture.VocabularySize, [rows, tokens], generator: new Generator(1, CPU));

    private static Tensor[] Weights(Lstm model) => [.. model.parameters()];

    private static Lstm FromGolden(Golden golden)
    {
        using var noGrad = no_grad();
        var model = new Lstm(new LstmArchitecture
        {
            Layers = s_golden["layers"].Integer,
            Width = s_golden["width"].Integer,
            ContextLength = 16,
            VocabularySize = s_golden["vocabulary"].Integer,
            TiedHead = golden["tied"].Boolean,
        });
        Assert.Equal(golden["parameters"].Members.Count(), model.named_parameters().Count());
        foreach (var (name, parameter) in model.named_parameters())
            parameter.copy_(golden["parameters"][NameThere(name)].Tensor());
        model.eval();
        return model;
    }

    /// <summary>"h.1.lstm.bias_hh_l0" is "bias_hh_l1" in PyTorch's own stack of layers.</summary>
    private static string NameThere(string name) => name switch
    {
        "wte.weight" => "embedding",
        "lm_head.weight" => "head",
        _ => name.Split('.')[^1].Replace("l0", "l" + name.Split('.')[1], StringComparison.Ordinal),
    };
}
