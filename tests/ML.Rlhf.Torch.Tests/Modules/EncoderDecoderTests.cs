using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Generation;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Modules;

public class EncoderDecoderTests
{
    private const int End = 18;

    [Fact]
    public void States_logits_losses_and_gradients_are_those_of_PyTorchs_layers()
    {
        var golden = Golden.Load("encoder-decoder/expected.json");
        var expected = Golden.Tensors("encoder-decoder/expected.safetensors");
        var model = LoadGolden(golden);
        int end = golden["end_token"].Integer;
        int[][] targets = [.. golden["targets"].Items.Select(t => t.Integers)];
        var sources = Padded([.. golden["sources"].Items.Select(s => s.Integers)]);
        var inputs = Padded([.. targets.Select(t => (int[])[end, .. t[..^1]])]);
        var mask = sources.PaddingMask();

        var encoded = model.Encode(sources.Ids, mask);
        var logits = model.Logits(model.Decode(inputs.Ids, encoded, mask));

        Close.Assert(expected["encoded"], Real(encoded, sources), absolute: 1e-5, what: "encoded");
        Close.Assert(expected["logits"], Real(logits, inputs), absolute: 1e-5, what: "logits");

        long width = inputs.Ids.shape[1];
        var positions = tensor(targets.SelectMany((t, row) => t.Select((_, i) => row * width + i)).ToArray());
        var labels = tensor(targets.SelectMany(t => t).Select(t => (long)t).ToArray());
        Assert.Equal(golden["label_count"].Integer, labels.numel());
        Check("grad.", golden["loss"].Number, smoothing: 0);
        Check("smoothed_grad.", golden["smoothed_loss"].Number, golden["label_smoothing"].Number);

        void Check(string prefix, double expectedLoss, double smoothing)
        {
            model.zero_grad();
            var all = model.Logits(model.Decode(inputs.Ids, model.Encode(sources.Ids, mask), mask)).flatten(0, 1);
            var loss = LanguageModelLoss.CrossEntropySum(all.index_select(0, positions), labels, smoothing) / labels.numel();
            loss.backward();
            Close.Assert(expectedLoss, loss.ToDouble(), relative: 1e-6);
            foreach (var (name, parameter) in model.named_parameters())
            {
                // Relative to the tensor: single numbers are small differences of large ones. A bias of keys has the gradient 0.
                var gradient = expected[prefix + name];
                double off = (gradient - parameter.grad!).norm().ToDouble();
                Close.Assert(0, off, absolute: 1e-7 + 1e-5 * gradient.norm().ToDouble(), what: prefix + name);
            }
        }
    }

    [Fact]
    public void Greedy_completions_of_padded_sources_are_those_of_PyTorchs_layers_one_by_one()
    {
        var golden = Golden.Load("encoder-decoder/expected.json");
        int[][] sources = [.. golden["sources"].Items.Select(s => s.Integers)];

        var results = Sampler.Generate(
            LoadGolden(golden), sources, new RandomStream[sources.Length], golden["end_token"].Integer,
            new SamplingOptions { Temperature = 0, MaxNewTokens = 12 });

        Assert.Equal(golden["greedy"].Items.Select(g => g.Integers), results.Select(r => r.Tokens));
        Assert.Equal([false, false, true, true], results.Select(r => r.Ended));
    }

    [Fact]
    public void A_later_target_token_changes_no_earlier_logit_and_an_earlier_one_changes_later_ones()
    {
        using var noGrad = no_grad();
        var model = TinyEncoderDecoder.Random();
        var encoded = model.Encode(tensor(new long[,] { { 1, 2, 3, 4 } }));
        long[] text = [5, 6, 7, 8, 9, 10];
        var before = model.Logits(model.Decode(tensor(text).unsqueeze(0), encoded));

        for (int place = 0; place < text.Length; place++)
        {
            long[] changed = [.. text];
            changed[place] = 11;
            var after = model.Logits(model.Decode(tensor(changed).unsqueeze(0), encoded));

            if (place > 0)
                Close.Assert(before[0, ..place], after[0, ..place]);
            for (int later = place; later < text.Length; later++)
                Assert.True(Close.Distance(before[0, later], after[0, later]) > 1e-4);
        }
    }

    [Fact]
    public void Every_source_token_is_seen_from_every_place_of_source_and_target()
    {
        using var noGrad = no_grad();
        var model = TinyEncoderDecoder.Random();
        long[] source = [1, 2, 3, 4, 5];
        var target = tensor(new long[,] { { 5, 6, 7 } });
        var before = model.Encode(tensor(source).unsqueeze(0));
        var hidden = model.Decode(target, before);

        for (int place = 0; place < source.Length; place++)
        {
            long[] changed = [.. source];
            changed[place] = 11;
            var after = model.Encode(tensor(changed).unsqueeze(0));

            for (int other = 0; other < source.Length; other++)
                Assert.True(Close.Distance(before[0, other], after[0, other]) > 1e-4);
            for (int t = 0; t < 3; t++)
                Assert.True(Close.Distance(hidden[0, t], model.Decode(target, after)[0, t]) > 1e-4);
        }
    }

    [Fact]
    public void Padding_and_companions_change_nothing()
    {
        using var noGrad = no_grad();
        var model = TinyEncoderDecoder.Random(seed: 2);
        int[][] sources = [[1, 2, 3, End], [4, End], [5, 6, 7, 8, 9, 10, 11, End]], targets = [[End, 3, 2, 1], [End, 4], [End, 9, 8]];
        var batch = Padded(sources);
        var mask = batch.PaddingMask();
        var inputs = Padded(targets);

        var together = model.Logits(model.Decode(inputs.Ids, model.Encode(batch.Ids, mask), mask));
        var otherPadding = batch.Ids.masked_fill(mask!.squeeze(1).squeeze(1) < 0, 13);
        var repadded = model.Logits(model.Decode(inputs.Ids, model.Encode(otherPadding, mask), mask));

        for (int row = 0; row < 3; row++)
        {
            var alone = model.Logits(model.Decode(Padded(targets[row]).Ids, model.Encode(Padded(sources[row]).Ids)));
            Close.Assert(alone[0], together[row, ..targets[row].Length], absolute: 1e-5);
            Close.Assert(together[row, ..targets[row].Length], repadded[row, ..targets[row].Length]);
        }
    }

    [Fact]
    public void A_batch_without_padding_needs_no_mask_and_any_other_hides_exactly_its_padding()
    {
        Assert.Null(Padded([1, 2], [3, 4]).PaddingMask());

        var mask = Padded([1], [2, 3, 4], [5, 6]).PaddingMask()!;

        double hidden = double.NegativeInfinity;
        Assert.Equal([3, 1, 1, 3], mask.shape);
        Close.Assert(tensor(new[,] { { 0, hidden, hidden }, { 0, 0, 0 }, { 0, 0, hidden } }), mask.squeeze(1).squeeze(1));
    }

    [Fact]
    public void Decoding_with_the_cache_equals_a_whole_pass_at_every_step_also_after_rows_left()
    {
        using var noGrad = no_grad();
        var model = TinyEncoderDecoder.Random(seed: 3);
        int[][] sources = [[1, 2, 3, End], [4, End], [5, 6, 7, 8, 9, 10, 11, End]];
        long[][] targets = [[End, 3, 2, 1, 7, 7, 0], [End, 4, 5, 6, 1, 2, 3], [End, 9, 8, 0, 0, 4, 1]];
        var batch = Padded(sources);
        var mask = batch.PaddingMask();
        int[] rows = [0, 1, 2];
        using var cache = new EncoderDecoderCache(model, model.Encode(batch.Ids, mask), mask, capacity: 7);

        for (int t = 0; t < 7; t++)
        {
            if (t == 3)
            {
                cache.Keep([2, 0]);
                rows = [2, 0];
            }
            var next = tensor(rows.Select(row => targets[row][t]).ToArray()).unsqueeze(-1);
            var hidden = model.DecodeNext(next, cache);

            Assert.Equal(t + 1, cache.Length);
            for (int i = 0; i < rows.Length; i++)
            {
                var whole = model.Decode(tensor(targets[rows[i]][..(t + 1)]).unsqueeze(0), model.Encode(Padded(sources[rows[i]]).Ids));
                Close.Assert(whole[0, -1], hidden[i, 0], absolute: 1e-5, what: $"row {rows[i]} at {t}");
            }
        }
    }

    [Fact]
    public void Positions_are_the_papers_sines_and_cosines()
    {
        var positions = SinusoidalPositions.Of(start: 3, count: 400, width: 6, CPU);

        Assert.Equal([400, 6], positions.shape);
        for (int p = 0; p < 400; p += 57)
        {
            for (int i = 0; i < 6; i++)
            {
                double angle = (p + 3) / Math.Pow(10000, (i - i % 2) / 6.0);
                Close.Assert(i % 2 == 0 ? Math.Sin(angle) : Math.Cos(angle), positions[p, i].ToDouble(), absolute: 1e-7);
            }
        }
    }

    [Fact]
    public void Initial_weights_are_Xaviers_and_come_from_the_generator()
    {
        var model = TinyEncoderDecoder.Fresh(seed: 1, EncoderDecoderArchitecture.Tiny);
        var same = TinyGpt.Snapshot(TinyEncoderDecoder.Fresh(seed: 1, EncoderDecoderArchitecture.Tiny));
        var other = TinyGpt.Snapshot(TinyEncoderDecoder.Fresh(seed: 2, EncoderDecoderArchitecture.Tiny));

        foreach (var (name, value) in TinyGpt.Snapshot(model))
        {
            Close.Assert(value, same[name]);
            if (value.ndim == 1)
            {
                Close.Assert(full_like(value, name.EndsWith("norm.weight", StringComparison.Ordinal) ? 1 : 0), value, what: name);
                continue;
            }
            Assert.True(Close.Distance(value, other[name]) > 0.01);
            double bound = Math.Sqrt(6.0 / (value.shape[0] + value.shape[1]));
            double deviation = name == "shared.weight" ? 1 / 8.0 : bound / Math.Sqrt(3);
            Close.Assert(deviation, value.std().ToDouble(), relative: 0.05, what: name);
            Close.Assert(0, value.mean().ToDouble(), absolute: 0.02, what: name);
            if (name != "shared.weight")
                Assert.InRange(value.abs().max().ToDouble(), 0.95 * bound, bound);
        }
    }

    [Fact]
    public void Presets_have_the_papers_sizes_and_count_their_parameters()
    {
        Assert.Equal(63_082_496, EncoderDecoderArchitecture.Base.ParameterCount);
        Close.Assert(65e6, EncoderDecoderArchitecture.Base.ParameterCount, relative: 0.03); // table 3
        Close.Assert(213e6, EncoderDecoderArchitecture.Big.ParameterCount, relative: 0.01);
        foreach (var architecture in (EncoderDecoderArchitecture[])[EncoderDecoderArchitecture.Tiny, TinyEncoderDecoder.Architecture])
        {
            Assert.Equal(
                architecture.ParameterCount, TinyEncoderDecoder.Fresh(architecture: architecture).parameters().Sum(p => p.numel()));
        }
    }

    [Fact]
    public void Its_architecture_comes_back_from_its_document()
    {
        Assert.Equal(EncoderDecoderArchitecture.Big, LanguageModelArchitecture.FromJson(EncoderDecoderArchitecture.Big.ToJson()));
    }

    [Fact]
    public void Everything_that_is_wrong_with_an_architecture_is_reported_at_once()
    {
        var wrong = new EncoderDecoderArchitecture
        {
            Layers = 0, Heads = 3, Width = 9, FeedForwardWidth = 0, ContextLength = 1, VocabularySize = 1, TiedHead = false,
        };

        Assert.Equal(
            "EncoderDecoderArchitecture: Layers is 0, but must be from 1 to 10000; ContextLength is 1, but must be from 2 to 16777216; " +
            "VocabularySize is 1, but must be from 2 to 16777216; Width is 9, but must be an even multiple of Heads (3), at most " +
            "1048576; FeedForwardWidth is 0, but must be from 1 to 1048576; TiedHead is False, but must be true: the head is the embedding.",
            Assert.Throws<ArgumentException>(() => new EncoderDecoder(wrong)).Message);
    }

    [Fact]
    public void More_tokens_than_the_context_or_the_cache_holds_are_an_error()
    {
        var model = TinyEncoderDecoder.Fresh();
        var seventeen = ones([1, 17], int64);
        var encoded = model.Encode(ones([1, 16], int64));
        using var cache = new EncoderDecoderCache(model, encoded, mask: null, capacity: 1);

        const string TooLong =
            "17 tokens do not fit the model's context of 16. Shorten the text, or use a model with a longer context. (Parameter 'ids')";
        Assert.Equal(TooLong, Assert.Throws<ArgumentException>(() => model.Encode(seventeen)).Message);
        Assert.Equal(TooLong, Assert.Throws<ArgumentException>(() => model.Decode(seventeen, encoded)).Message);
        Assert.StartsWith(
            "2 tokens per row were given, but the cache takes 1 at a time.",
            Assert.Throws<ArgumentException>(() => model.DecodeNext(ones([1, 2], int64), cache)).Message);
        model.DecodeNext(ones([1, 1], int64), cache);
        Assert.StartsWith(
            "2 tokens do not fit the cache's capacity of 1.",
            Assert.Throws<ArgumentException>(() => model.DecodeNext(ones([1, 1], int64), cache)).Message);
    }

    [Fact]
    public void Dropout_acts_in_training_alone()
    {
        using var noGrad = no_grad();
        var model = TinyEncoderDecoder.Random();
        var source = ones([1, 3], int64);
        var expected = model.Decode(source, model.Encode(source));
        model.Dropout = 0.5;

        Close.Assert(expected, model.Decode(source, model.Encode(source)));
        model.train();
        var encoded = model.Encode(source);
        Assert.True(Close.Distance(encoded, model.Encode(source)) > 0.01);
        Assert.True(Close.Distance(model.Decode(source, encoded), model.Decode(source, encoded)) > 0.01);
    }

    [Fact]
    public void A_clone_gives_the_same_and_shares_no_storage()
    {
        using var noGrad = no_grad();
        var model = TinyEncoderDecoder.Random();
        var source = arange(8).unsqueeze(0);
        var before = model.Encode(source);
        var clone = model.Clone();
        Close.Assert(before, clone.Encode(source));

        foreach (var parameter in clone.parameters())
            parameter.zero_();

        Close.Assert(before, model.Encode(source));
    }

    [Fact]
    public void Building_running_and_disposing_leave_no_tensor_behind() => LiveTensors.AssertNoneLeftBy(() =>
    {
        using var scope = NewDisposeScope();
        using var model = TinyEncoderDecoder.Random();
        using var clone = model.Clone();
        var batch = Padded([1, 2, 3], [4]);
        var mask = batch.PaddingMask();
        var encoded = clone.Encode(batch.Ids, mask);
        model.Logits(model.Decode(batch.Ids, encoded, mask)).sum().backward();
        using var cache = new EncoderDecoderCache(model, encoded.detach(), mask, capacity: 2);
        model.DecodeNext(ones([2, 1], int64), cache);
        cache.Keep([1]);
        model.DecodeNext(ones([1, 1], int64), cache);
    });

    private static PaddedBatch Padded(params int[][] rows) => PaddedBatch.Create(rows, CPU);

    private static Tensor Real(Tensor values, PaddedBatch batch)
    {
        var places = arange(batch.Ids.shape[1]).unsqueeze(0);
        var padding = places >= tensor(batch.Lengths, dtype: int64).unsqueeze(-1);
        return values.detach().masked_fill(padding.unsqueeze(-1), 0);
    }

    private static EncoderDecoder LoadGolden(Golden golden)
    {
        var model = new EncoderDecoder(new EncoderDecoderArchitecture
        {
            Layers = golden["layers"].Integer,
            Heads = golden["heads"].Integer,
            Width = golden["width"].Integer,
            FeedForwardWidth = golden["feed_forward_width"].Integer,
            ContextLength = golden["context_length"].Integer,
            VocabularySize = golden["vocabulary_size"].Integer,
        });
        var weights = Golden.Tensors("encoder-decoder/weights.safetensors");
        using var noGrad = no_grad();
        foreach (var (name, parameter) in model.named_parameters())
        {
            Assert.Equal(parameter.shape, weights[name].shape);
            parameter.copy_(weights[name]);
            weights.Remove(name);
        }
        Assert.Empty(weights);
        model.eval();
        return model;
    }
}
