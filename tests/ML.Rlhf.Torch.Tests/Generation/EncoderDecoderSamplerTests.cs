using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Generation;
using ML.Rlhf.Torch.Modules;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Generation;

/// <summary>What is particular to completions that stand apart from their prompts.</summary>
public class EncoderDecoderSamplerTests
{
    private const int End = 18;
    private static readonly int[][] s_sources = [[3, End], [4, 5, 6, 7, 8, 9, 10, End], [1, 2, 3, End], [End]];

    /// <summary>The strongest check of masks and cache: no padding, no cache, no batch.</summary>
    [Fact]
    public void Log_probabilities_are_those_of_a_fresh_pass_over_each_row_alone()
    {
        using var noGrad = no_grad();
        var model = TinyEncoderDecoder.Random(seed: 1);

        var results = Sampler.Generate(
            model, s_sources, Streams(), End, new SamplingOptions { MaxNewTokens = 15, Temperature = 1.5f }, withLogProbabilities: true);

        Assert.True(results.Select(r => r.Tokens.Length).Distinct().Count() > 1); // rows left the batch while others went on
        for (int row = 0; row < s_sources.Length; row++)
        {
            int[] drawn = results[row].Tokens;
            var logits = model.Logits(model.Decode(Ids([End, .. drawn[..^1]]), model.Encode(Ids(s_sources[row]))))[0] / 1.5;
            Close.Assert(
                LogProbabilities.OfTokens(logits, Ids(drawn)[0]), tensor(results[row].LogProbabilities), absolute: 1e-4);
        }
    }

    [Fact]
    public void A_completion_depends_on_its_own_stream_and_on_no_companion()
    {
        var model = TinyEncoderDecoder.Random(seed: 1);
        var options = new SamplingOptions { MaxNewTokens = 12 };
        var together = Sampler.Generate(model, s_sources, Streams(), End, options);

        for (int row = 0; row < s_sources.Length; row++)
            Assert.Equal(together[row].Tokens, Sampler.Generate(model, [s_sources[row]], [Streams()[row]], End, options)[0].Tokens);
    }

    [Fact]
    public void Completions_end_at_the_limit_or_where_the_decoders_context_does_and_arrive_token_by_token()
    {
        var model = TinyEncoderDecoder.Random(seed: 1);
        var heard = s_sources.Select(_ => new List<int>()).ToArray();

        var limited = Sampler.Generate(
            model, s_sources, Streams(), endToken: 0, new SamplingOptions { MaxNewTokens = 3, MinNewTokens = 3 },
            onToken: (row, token) => heard[row].Add(token));
        var full = Sampler.Generate(
            model, s_sources, Streams(), endToken: 0, new SamplingOptions { MaxNewTokens = 100, MinNewTokens = 16 });

        Assert.All(limited, r => Assert.Equal(3, r.Tokens.Length));
        Assert.Equal(limited.Select(r => r.Tokens), heard.Select(tokens => tokens.ToArray()));
        Assert.All(full, r => Assert.Equal(16, r.Tokens.Length)); // the context, whatever the source's length
        Assert.All(limited.Concat(full), r => Assert.DoesNotContain(0, r.Tokens[..^1]));
    }

    [Fact]
    public void Repetition_means_that_of_the_completion()
    {
        var model = TinyEncoderDecoder.Random(seed: 1);
        var options = new SamplingOptions { MaxNewTokens = 10, Temperature = 0, MinNewTokens = 10 };

        var plain = Sampler.Generate(model, s_sources, Streams(), End, options);
        var penalized = Sampler.Generate(model, s_sources, Streams(), End, options with { RepetitionPenalty = 1000 });
        var distinct = Sampler.Generate(model, s_sources, Streams(), End, options with { NoRepeatNgramSize = 1 });

        for (int row = 0; row < s_sources.Length; row++)
        {
            Assert.Equal(plain[row].Tokens[0], penalized[row].Tokens[0]); // nothing has been said yet
            Assert.True(penalized[row].Tokens.Distinct().Count() > plain[row].Tokens.Distinct().Count());
            Assert.Equal(10, distinct[row].Tokens.Distinct().Count());
        }
    }

    [Fact]
    public void Cancelling_stops_before_the_next_token()
    {
        int checks = 0;

        Assert.Throws<OperationCanceledException>(() => Sampler.Generate(
            TinyEncoderDecoder.Random(), s_sources, Streams(), End, new SamplingOptions { MinNewTokens = 10 },
            checkCanceled: () =>
            {
                if (++checks == 3)
                    throw new OperationCanceledException();
            }));
    }

    [Fact]
    public void Generating_leaves_no_tensor_behind()
    {
        var model = TinyEncoderDecoder.Random(seed: 1);
        LiveTensors.AssertNoneLeftBy(() => Sampler.Generate(
            model, s_sources, Streams(), End, new SamplingOptions { MaxNewTokens = 12, RepetitionPenalty = 1.2f },
            withLogProbabilities: true));
    }

    private static RandomStream[] Streams() => [.. s_sources.Select((_, row) => new RandomStream(5, (ulong)row))];

    private static Tensor Ids(int[] tokens) => tensor(Array.ConvertAll(tokens, t => (long)t)).unsqueeze(0);
}
