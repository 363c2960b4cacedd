using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Generation;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Tests.Modules;
using ML.Rlhf.Torch.Training;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Generation;

public class SamplerTests
{
    private const int Never = -1;
    private static readonly SamplingOptions s_greedy = new() { Temperature = 0, MaxNewTokens = 16 };

    [Theory]
    [MemberData(nameof(GoldenModelTests.Folders), MemberType = typeof(GoldenModelTests))]
    public void Greedy_completions_of_left_padded_prompts_equal_the_reference(string folder)
    {
        var golden = Golden.Load($"{folder}/expected.json")["greedy"];
        int[][] prompts = [.. golden["prompts"].Items.Select(p => p.Integers)];

        var results = Sampler.Generate(
            GoldenModel.Load(folder), prompts, Streams(prompts.Length), Never, s_greedy, withLogProbabilities: true);

        for (int row = 0; row < prompts.Length; row++)
        {
            Assert.Equal(golden["new_tokens"][row].Integers, results[row].Tokens);
            Assert.False(results[row].Ended);
            Close.Assert(golden["sum_logprob_of_new_tokens"][row].Number, results[row].LogProbabilities.Sum(), relative: 1e-5);
        }
    }

    [Theory]
    [MemberData(nameof(GoldenModelTests.Folders), MemberType = typeof(GoldenModelTests))]
    public void A_row_stops_at_its_end_token_and_keeps_it_while_the_others_go_on_as_before(string folder)
    {
        var golden = Golden.Load($"{folder}/expected.json");
        int[][] prompts = [.. golden["greedy"]["prompts"].Items.Select(p => p.Integers)];
        int end = golden["greedy_with_eos"]["eos_token_id"].Integer;

        var results = Sampler.Generate(GoldenModel.Load(folder), prompts, Streams(prompts.Length), end, s_greedy);

        for (int row = 0; row < prompts.Length; row++)
        {
            int[] padded = golden["greedy_with_eos"]["new_tokens"][row].Integers;
            int ended = Array.IndexOf(padded, end);
            Assert.Equal(ended < 0 ? padded : padded[..(ended + 1)], results[row].Tokens);
            Assert.Equal(ended >= 0, results[row].Ended);
        }
    }

    [Fact]
    public void Completions_are_cut_after_the_first_end_token_as_the_reference_cuts_them()
    {
        var golden = Golden.Load("rl/tokens.json");
        foreach (var c in golden["truncate_response"].Items)
        {
            int end = c["stop_token_id"].Integer;
            Assert.Equal(0, c["pad_token_id"].Integer);

            var batch = EpisodeBatch.Create([.. c["responses"].Items.Select(r =>
            {
                var said = Recite(r.Integers, end);
                return new Episode([0], said.Tokens, [], said.Ended);
            })], CPU);

            var expected = c["output"].Tensor(ScalarType.Int64);
            long width = batch.Responses.shape[1];
            Close.Assert(expected[TensorIndex.Colon, ..(int)width], batch.Responses);
            Assert.Equal(0, expected[TensorIndex.Colon, (int)width..].sum().ToInt32());
        }

        var first = golden["first_true_indices"];
        foreach (var (row, expected) in first["input"].Items.Zip(first["output"].Integers))
        {
            const int End = 1, Other = 2;
            var said = Recite(Array.ConvertAll(row.Integers, isEnd => isEnd == 1 ? End : Other), End);
            Assert.Equal(expected, said.Ended ? said.Tokens.Length - 1 : said.Tokens.Length);
        }
    }

    /// <summary>The completion by a model that knows one text by heart: each position's embedding is the next token's.</summary>
    private static SampledTokens Recite(int[] text, int endToken)
    {
        using var noGrad = no_grad();
        int vocabulary = text.Max() + 2;
        var model = TinyGpt.Fresh(architecture: new()
        {
            Layers = 1, Heads = 1, Width = vocabulary, ContextLength = text.Length + 1, VocabularySize = vocabulary,
        });
        foreach (var (name, parameter) in model.named_parameters())
        {
            if (name == "wte.weight")
                parameter.copy_(eye(vocabulary));
            else if (name == "wpe.weight")
                parameter[..text.Length].copy_(eye(vocabulary)[tensor(Array.ConvertAll(text, t => (long)t))] * 100);
            else if (!name.StartsWith("ln_f", StringComparison.Ordinal))
                parameter.zero_();
        }
        return Sampler.Generate(model, [[vocabulary - 1]], Streams(1), endToken, s_greedy)[0];
    }

    /// <summary>The strongest check of positions, mask and cache: no padding, no cache, no batch.</summary>
    [Fact]
    public void Log_probabilities_are_those_of_a_fresh_forward_pass_over_each_row_alone()
    {
        using var noGrad = no_grad();
        var model = TinyGpt.Random(seed: 1);
        int[][] prompts = [[3], [4, 5, 6, 7, 8, 9, 10], [1, 2, 3], [18, 0, 18, 0]];

        var results = Sampler.Generate(
            model, prompts, Streams(4), stop: 11, new SamplingOptions { MaxNewTokens = 15, Temperature = 1.5f },
            withLogProbabilities: true);

        for (int row = 0; row < prompts.Length; row++)
        {
            long[] text = [.. prompts[row], .. results[row].Tokens];
            var logits = model.Logits(model.Hidden(tensor(text).unsqueeze(0)))[0][(prompts[row].Length - 1)..^1] / 1.5;
            Close.Assert(
                LogProbabilities.OfTokens(logits, tensor(text)[prompts[row].Length..]), tensor(results[row].LogProbabilities),
                absolute: 1e-4);
        }
    }

    [Fact]
    public void A_completion_depends_on_its_own_stream_and_on_no_companion()
    {
        var model = TinyGpt.Random(seed: 2);
        var options = new SamplingOptions { MaxNewTokens = 12 };
        int[][] prompts = [[1], [2, 3, 4, 5, 6, 7], [8, 9, 10], [11, 12], [13, 14, 15, 16]];
        var streams = Streams(5);
        int[][] alone = [.. prompts.Select((p, i) => Sampler.Generate(model, [p], [streams[i]], 17, options)[0].Tokens)];
        Assert.True(alone.Any(a => a.Length < 12) && alone.Any(a => a.Length == 12),
            "the seed should give rows that end and rows that do not");

        foreach (int[] order in (int[][])[[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0], [1, 4, 1]])
        {
            var together = Sampler.Generate(
                model, [.. order.Select(i => prompts[i])], [.. order.Select(i => streams[i])], 17, options);
            Assert.Equal(order.Select(i => alone[i]), together.Select(r => r.Tokens));
        }
    }

    [Fact]
    public void The_same_stream_gives_the_same_completion_and_another_stream_another()
    {
        var model = TinyGpt.Random(seed: 2);
        var options = new SamplingOptions { MaxNewTokens = 12 };

        int[] Draw(ulong seed) => Sampler.Generate(model, [[1, 2]], [new RandomStream(seed)], Never, options)[0].Tokens;

        Assert.Equal(Draw(1), Draw(1));
        Assert.NotEqual(Draw(1), Draw(2));
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void No_n_gram_occurs_twice_in_prompt_and_completion_of_any_row(int size)
    {
        int[][] prompts = [[1, 2, 3, 4], [4], [5, 6, 7]];
        var options = s_greedy with { MaxNewTokens = 12 }; // 16 tokens at most, of a vocabulary of 19
        bool RepeatsItself(int[] text) =>
            Enumerable.Range(0, text.Length - size + 1).GroupBy(i => string.Join(",", text[i..(i + size)])).Any(g => g.Count() > 1);
        bool[] Repeats(SamplingOptions o) => [.. Sampler.Generate(TinyGpt.Random(seed: 2), prompts, Streams(3), Never, o)
            .Zip(prompts, (result, prompt) => RepeatsItself([.. prompt, .. result.Tokens]))];

        Assert.Contains(true, Repeats(options)); // at temperature 0, a model of random weights soon does
        Assert.All(Repeats(options with { NoRepeatNgramSize = size }), Assert.False);
    }

    [Fact]
    public void A_penalty_makes_completions_repeat_less()
    {
        var model = TinyGpt.Random(seed: 2);
        int[][] prompts = [[1, 2, 3], [4], [5, 6]];
        double Distinct(float penalty) => Sampler.Generate(model, prompts, Streams(3), Never, s_greedy with { RepetitionPenalty = penalty })
            .Average(r => r.Tokens.Distinct().Count());

        Assert.True(Distinct(3) > Distinct(1) + 2, $"{Distinct(1)} → {Distinct(3)}");
    }

    [Fact]
    public void No_completion_ends_before_its_minimum_length_and_each_may_end_there()
    {
        var model = TinyGpt.Random(seed: 2);
        int[][] prompts = [.. Enumerable.Range(0, 200).Select(i => (int[])[i % 17, 3])];
        int[] Lengths(int minimum) => [.. Sampler.Generate(
            model, prompts, Streams(200), stop: 17, new SamplingOptions { MaxNewTokens = 20, MinNewTokens = minimum })
            .Where(r => r.Ended).Select(r => r.Tokens.Length)];

        Assert.Equal(1, Lengths(0).Min());
        Assert.Equal(6, Lengths(5).Min()); // five tokens, and then the end token
    }

    [Fact]
    public void Any_of_several_stop_tokens_ends_a_completion_and_none_before_the_minimum_length()
    {
        var model = TinyGpt.Random(seed: 2);
        int[][] prompts = [.. Enumerable.Range(0, 200).Select(i => (int[])[i % 17, 3])];

        var results = Sampler.Generate(
            model, prompts, Streams(200), new StopTokens(17, 4), new SamplingOptions { MaxNewTokens = 20, MinNewTokens = 2 });

        int[][] ended = [.. results.Where(r => r.Ended).Select(r => r.Tokens)];
        Assert.Equal([4, 17], ended.Select(tokens => tokens[^1]).Distinct().Order());
        Assert.All(results, r => Assert.DoesNotContain(r.Ended ? r.Tokens[..^1] : r.Tokens, token => token is 4 or 17));
        Assert.Equal(3, ended.Min(tokens => tokens.Length));
    }

    /// <summary>Rows of any lengths and options of every kind: what is reported is what was drawn from.</summary>
    [Fact]
    public void Log_probabilities_are_those_of_the_distribution_that_the_options_leave()
    {
        using var noGrad = no_grad();
        var model = TinyGpt.Random(seed: 1);
        const int End = 11;
        int[][] prompts = [[3], [4, 5, 6, 7, 4, 5], [1, 2, 3]];
        var options = new SamplingOptions
        {
            MaxNewTokens = 12, Temperature = 1.5f, TopK = 15, TopP = 0.95f, MinP = 0.02f, TypicalP = 0.9f, EpsilonCutoff = 0.01f,
            RepetitionPenalty = 1.3f, NoRepeatNgramSize = 2, MinNewTokens = 4,
        };

        var results = Sampler.Generate(model, prompts, Streams(3), End, options, withLogProbabilities: true);

        for (int row = 0; row < prompts.Length; row++)
        {
            int[] text = [.. prompts[row], .. results[row].Tokens];
            for (int t = prompts[row].Length; t < text.Length; t++)
            {
                var logits = model.Logits(model.Hidden(tensor(Array.ConvertAll(text[..t], id => (long)id)).unsqueeze(0))[0][^1..]);
                var sampling = new TokenSampling(options, End);
                sampling.Shape(logits.data<float>().ToArray(), text.AsSpan(0, t), t - prompts[row].Length);
                var logProbs = tensor(sampling.Logits.ToArray()).log_softmax(-1);
                Close.Assert(
                    logProbs[sampling.Tokens.IndexOf(text[t])].ToDouble(), results[row].LogProbabilities[t - prompts[row].Length],
                    absolute: 1e-4);
            }
        }
    }

    [Theory]
    [InlineData(100)]
    [InlineData(int.MaxValue)]
    public void The_end_of_the_context_ends_a_row_and_only_that_row(int maxNewTokens)
    {
        var model = TinyGpt.Random(seed: 3);
        int context = model.Architecture.ContextLength;
        int[][] prompts = [[1], new int[context - 1], new int[context - 5]];

        var results = Sampler.Generate(model, prompts, Streams(3), Never, new SamplingOptions { MaxNewTokens = maxNewTokens });

        Assert.Equal([context - 1, 1, 5], results.Select(r => r.Tokens.Length));
        Assert.All(results, r => Assert.False(r.Ended));
    }

    [Fact]
    public void Tokens_are_announced_one_by_one_as_they_are_drawn_and_nothing_follows_the_end_token()
    {
        var model = TinyGpt.Random(seed: 2);
        int[][] prompts = [[1], [2, 3, 4], [5, 6]];
        var heard = new List<int>[] { [], [], [] };

        var results = Sampler.Generate(
            model, prompts, Streams(3), stop: 17, new SamplingOptions { MaxNewTokens = 20 },
            onToken: (row, token) => heard[row].Add(token));

        Assert.Equal(results.Select(r => r.Tokens), heard.Select(h => h.ToArray()));
        Assert.All(results, r => Assert.Equal(r.Ended, r.Tokens[^1] == 17));
        Assert.All(results, r => Assert.DoesNotContain(17, r.Tokens[..^1]));
    }

    [Fact]
    public void Log_probabilities_are_recorded_on_request_only()
    {
        var result = Sampler.Generate(TinyGpt.Fresh(), [[1]], Streams(1), Never, new SamplingOptions { MaxNewTokens = 3 });

        Assert.Empty(result[0].LogProbabilities);
    }

    [Fact]
    public void Cancelling_stops_before_the_next_token()
    {
        using var source = new CancellationTokenSource();
        int heard = 0;

        Assert.Throws<OperationCanceledException>(() => Sampler.Generate(
            TinyGpt.Fresh(), [[1]], Streams(1), Never, new SamplingOptions { MaxNewTokens = 20 },
            checkCanceled: source.Token.ThrowIfCancellationRequested,
            onToken: (_, _) =>
            {
                if (++heard == 3)
                    source.Cancel();
            }));

        Assert.Equal(3, heard);
    }

    [Fact]
    public void No_tensor_is_left_behind_when_it_ends_or_is_cancelled()
    {
        var model = TinyGpt.Random();
        int[][] prompts = [[1], [2, 3, 4], [5, 6]];
        using var cancelled = new CancellationTokenSource();

        LiveTensors.AssertNoneLeftBy(() => Sampler.Generate(
            model, prompts, Streams(3), stop: 17, new SamplingOptions { MaxNewTokens = 20, TopK = 12, TopP = 0.9f },
            withLogProbabilities: true));
        LiveTensors.AssertNoneLeftBy(() => Sampler.Generate(
            model, prompts, Streams(3), stop: 17, new SamplingOptions
            {
                MaxNewTokens = 20, MinP = 0.01f, TypicalP = 0.9f, EpsilonCutoff = 0.01f, RepetitionPenalty = 1.2f, NoRepeatNgramSize = 2,
                MinNewTokens = 3,
            }));
        LiveTensors.AssertNoneLeftBy(() => Assert.Throws<OperationCanceledException>(() => Sampler.Generate(
            model, prompts, Streams(3), Never, new SamplingOptions(), onToken: (_, _) => cancelled.Cancel(),
            checkCanceled: cancelled.Token.ThrowIfCancellationRequested)));
    }

    private static RandomStream[] Streams(int count) => [.. Enumerable.Range(0, count).Select(i => new RandomStream(7, (ulong)i))];
}
