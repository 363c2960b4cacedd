using System.Diagnostics;
using TorchSharp;

namespace ML.Rlhf.Tests.Gpt;

public sealed class StreamingTests
{
    private static readonly Lazy<TextGenerationTransformer> s_endless = new(TrainEndless);

    private static TextGenerationTransformer Endless => s_endless.Value;

    private static CancellationToken Timeout => TestContext.Current.CancellationToken;

    [Fact]
    public async Task The_pieces_put_together_are_what_Generate_gives()
    {
        for (int seed = 0; seed < 20; seed++)
        {
            var sampling = new SamplingOptions { MaxNewTokens = 20, Seed = seed };
            Assert.Equal(Tiny.Model.Generate("cat", sampling), string.Concat(await Pieces(Tiny.Model, "cat", sampling)));
        }
    }

    [Fact]
    public async Task Characters_come_whole_however_many_bytes_they_have()
    {
        var sampling = new SamplingOptions { MaxNewTokens = 300 };

        var pieces = await Pieces(Endless, "the cat", sampling);

        Assert.Equal(Endless.Generate("the cat", sampling), string.Concat(pieces));
        Assert.InRange(pieces.Count, 100, 300);
        Assert.Contains(pieces, piece => piece.Contains('\ufffd')); // a byte that belongs to no character
        Assert.Contains(pieces, piece => piece.EnumerateRunes().Any(rune => rune.Utf8SequenceLength == 2 && rune.Value > 0xA0));
        Assert.All(pieces, piece => Assert.True(piece.Length > 0));
    }

    [Fact]
    public async Task The_first_piece_comes_before_the_last_token_is_drawn()
    {
        var sampling = new SamplingOptions { MaxNewTokens = 2000 };
        var whole = Stopwatch.StartNew();
        Endless.Generate("cat", sampling);
        whole.Stop();

        var first = Stopwatch.StartNew();
        await foreach (string _ in Endless.GenerateStreamingAsync("cat", sampling, Timeout))
        {
            first.Stop();
            break;
        }

        Assert.InRange(first.Elapsed, TimeSpan.Zero, whole.Elapsed / 2);
    }

    [Fact]
    public async Task Cancelling_stops_it_at_once()
    {
        using var cancellation = CancellationTokenSource.CreateLinkedTokenSource(Timeout);
        int pieces = 0;

        await Assert.ThrowsAnyAsync<OperationCanceledException>(async () =>
        {
            var sampling = new SamplingOptions { MaxNewTokens = 4000 };
            await foreach (string _ in Endless.GenerateStreamingAsync("cat", sampling, cancellation.Token))
            {
                if (++pieces == 3)
                {
                    await Task.Delay(30, Timeout); // more pieces are ready by now
                    await cancellation.CancelAsync();
                }
            }
        });

        Assert.Equal(3, pieces);
    }

    [Fact]
    public async Task A_token_that_is_given_to_the_enumeration_stops_it_too()
    {
        using var cancellation = new CancellationTokenSource();
        await cancellation.CancelAsync();

        await Assert.ThrowsAnyAsync<OperationCanceledException>(async () =>
        {
            await foreach (string _ in Endless.GenerateStreamingAsync("cat").WithCancellation(cancellation.Token))
                Assert.Fail("A piece came.");
        });
    }

    [Fact]
    public async Task Leaving_the_enumeration_stops_the_generation_and_waits_for_it()
    {
        var sampling = new SamplingOptions { MaxNewTokens = 2000 };
        var model = TrainEndless();
        var whole = Stopwatch.StartNew();
        model.Generate("cat", sampling);
        whole.Stop();

        var left = Stopwatch.StartNew();
        await foreach (string piece in model.GenerateStreamingAsync("cat", sampling, Timeout))
        {
            Assert.NotEmpty(piece);
            break;
        }
        model.Dispose(); // nobody uses it any more

        Assert.InRange(left.Elapsed, TimeSpan.Zero, whole.Elapsed / 2);
    }

    [Fact]
    public async Task A_prompt_that_fills_the_context_and_bad_options_are_errors()
    {
        var tooLong = await Assert.ThrowsAsync<ArgumentException>(() => Pieces(Tiny.Model, new string('a', 32), Tiny.Model.Sampling));
        Assert.StartsWith(
            "The prompt 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' has 32 tokens, but the model's context is 32 tokens", tooLong.Message);

        var bad = await Assert.ThrowsAsync<ArgumentException>(() => Pieces(Tiny.Model, "a", new SamplingOptions { TopP = 0 }));
        Assert.Equal("SamplingOptions: TopP is 0, but must be above 0 and at most 1.", bad.Message);

        var disposed = Tiny.Model.WithSampling(Tiny.Model.Sampling);
        disposed.Dispose();
        await Assert.ThrowsAsync<ObjectDisposedException>(() => Pieces(disposed, "a", Tiny.Model.Sampling));
    }

    [Fact]
    public async Task Several_streams_run_at_once()
    {
        var sampling = new SamplingOptions { MaxNewTokens = 50 };
        string[] prompts = ["cat", "dog", "cow", "hen"];

        var streams = await Task.WhenAll(prompts.Select(prompt => Pieces(Endless, prompt, sampling)));

        Assert.Equal(prompts.Select(prompt => Endless.Generate(prompt, sampling)), streams.Select(pieces => string.Concat(pieces)));
    }

    private static async Task<List<string>> Pieces(TextGenerationTransformer model, string prompt, SamplingOptions sampling)
    {
        var pieces = new List<string>();
        await foreach (string piece in model.GenerateStreamingAsync(prompt, sampling, Timeout))
            pieces.Add(piece);
        return pieces;
    }

    /// <summary>
    /// Draws bytes at random and never the end: every hidden state is a vector of ones, of which the end token's embedding is the opposite.
    /// </summary>
    private static TextGenerationTransformer TrainEndless()
    {
        var model = Tiny.Train(TextTokenizer.FromBytes(), Tiny.Architecture with { ContextLength = 4096 });
        using var scope = torch.NewDisposeScope();
        Tiny.SetWeight(model.Module, "ln_f.weight", torch.zeros(16));
        Tiny.SetWeight(model.Module, "ln_f.bias", torch.ones(16));
        Tiny.SetWeight(model.Module, "wte.weight", torch.cat([torch.zeros(256, 16), torch.full([1, 16], -100)]));
        return model;
    }
}
