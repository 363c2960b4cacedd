using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Generation;
using ML.Rlhf.Torch.Modules;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Generation;

public class SamplerTests
{
    private const int Never = -1;
    private static readonly SamplingOptions s_greedy = new() { Temperature = 0, MaxNewTokens = 16 };

    [Fact]
    public void Greedy_completions_of_left_padded_prompts_equal_the_reference()
    {
        var golden = Golden.Load("models/gpt2/expected.json")["greedy"];
        int[][] prompts = [.. golden["prompts"].Items.Select(p => p.Integers)];

        var results = Sampler.Generate(
            GoldenGpt2.Load("models/gpt2"), prompts, Streams(prompts.Length), Never, s_greedy, withLogProbabilities: true);

        for (int row = 0; row < prompts.Length; row++)
        {
            Assert.Equal(golden["new_tokens"][row].Integers, results[row].Tokens);
            Assert.False(results[row].Ended);
            Close.Assert(golden["sum_logprob_of_new_tokens"][row].Number, results[row].LogProbabilities.Sum(), relative: 1e-5);
        }
    }

    [Fact]
    public void A_row_stops_at_its_end_token_and_keeps_it_while_the_others_go_on_as_before()
    {
        var golden = Golden.Load("models/gpt2/expected.json");
        int[][] prompts = [.. golden["greedy"]["prompts"].Items.Select(p => p.Integers)];
        int end = golden["greedy_with_eos"]["eos_token_id"].Integer;

        var results = Sampler.Generate(GoldenGpt2.Load("models/gpt2"), prompts, Streams(prompts.Length), end, s_greedy);

        for (int row = 0; row < prompts.Length; row++)
        {
            int[] padded = golden["greedy_with_eos"]["new_tokens"][row].Integers;
            int ended = Array.IndexOf(padded, end);
            Assert.Equal(ended < 0 ? padded : padded[..(ended + 1)], results[row].Tokens);
            Assert.Equal(ended >= 0, results[row].Ended);
        }
    }

    /// <summary>The strongest check of positions, mask and cache: no padding, no cache, no batch.</summary>
    [Fact]
    public void Log_probabilities_are_those_of_a_fresh_forward_pass_over_each_row_alone()
    {
        using var noGrad = no_grad();
        var model = TinyGpt.Random(seed: 1);
        int[][] prompts = [[3], [4, 5, 6, 7, 8, 9, 10], [1, 2, 3], [18, 0, 18, 0]];

        var results = Sampler.Generate(
            model, prompts, Streams(4), endToken: 11, new SamplingOptions { MaxNewTokens = 15, Temperature = 1.5f },
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
            model, prompts, Streams(3), endToken: 17, new SamplingOptions { MaxNewTokens = 20 },
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
            model, prompts, Streams(3), endToken: 17, new SamplingOptions { MaxNewTokens = 20, TopK = 12, TopP = 0.9f },
            withLogProbabilities: true));
        LiveTensors.AssertNoneLeftBy(() => Assert.Throws<OperationCanceledException>(() => Sampler.Generate(
            model, prompts, Streams(3), Never, new SamplingOptions(), onToken: (_, _) => cancelled.Cancel(),
            checkCanceled: cancelled.Token.ThrowIfCancellationRequested)));
    }

    private static RandomStream[] Streams(int count) => [.. Enumerable.Range(0, count).Select(i => new RandomStream(7, (ulong)i))];
}
