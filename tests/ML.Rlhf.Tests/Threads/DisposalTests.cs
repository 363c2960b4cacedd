using System.Diagnostics;
using Microsoft.ML;
using ML.Rlhf.TestSupport;

namespace ML.Rlhf.Tests.Threads;

/// <summary>
/// Models are disposed while others score: those who come after get an error, those in the middle an answer or that error. Each round has a
/// model with weights of its own, so that they are really freed.
/// </summary>
public sealed class DisposalTests : IDisposable
{
    private const string Message = "The model was disposed";

    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;
    private readonly MLContext _ml = new(seed: 1);

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void Who_reads_the_weights_while_they_are_disposed_finishes()
    {
        var model = Load(Tiny.Model);
        var expected = Tiny.Weights(Tiny.Model);
        long before = LiveTensors.Count;

        float[] read = model.Use(network =>
        {
            model.Dispose();
            Assert.Equal(before, LiveTensors.Count);
            return network.parameters().SelectMany(parameter => parameter.data<float>().ToArray()).ToArray();
        });

        Assert.Equal(expected, read);
        Assert.True(LiveTensors.Count < before); // the last reader freed them
        Assert.StartsWith(Message, Assert.Throws<ObjectDisposedException>(() => model.Use(network => 0)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Weights_that_are_shared_outlive_each_of_those_who_share_them()
    {
        var model = Load(Tiny.Model);
        var other = model.WithSampling(model.Sampling);
        string answer = model.Generate("cat");

        model.Dispose();
        model.Dispose();

        Assert.Equal(answer, other.Generate("cat"));
        other.Dispose();
        Assert.Throws<ObjectDisposedException>(() => other.WithSampling(other.Sampling));
    }

    [Fact]
    public async Task A_stream_that_has_begun_ends_and_a_later_one_is_refused()
    {
        var model = Load(Tiny.Model);
        string whole = model.Generate("cat"), read = "";
        var late = model.GenerateStreamingAsync("cat");

        await foreach (string piece in model.GenerateStreamingAsync("cat"))
        {
            model.Dispose();
            read += piece;
        }

        Assert.Equal(whole, read);
        var error = await Assert.ThrowsAsync<ObjectDisposedException>(async () => await late.GetAsyncEnumerator().MoveNextAsync());
        Assert.StartsWith(Message, error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_reward_that_is_disposed_in_the_middle_of_a_run_ends_the_run()
    {
        var reward = Load(Tiny.Reward);
        var options = new PpoOptions
        {
            Episodes = 64, EpisodesPerUpdate = 8, MaxResponseTokens = 4, Progress = new ProgressRecords(_ => reward.Dispose()),
        };

        var error = Assert.Throws<ObjectDisposedException>(
            () => _ml.Rlhf().Trainers.Ppo(Tiny.Model, reward, options).Fit(_ml.Data.LoadFromEnumerable(Tiny.Prompts)));

        Assert.StartsWith(Message, error.Message, StringComparison.Ordinal);
    }

    /// <summary>A crash ends a process, so it is another one; there, freed memory is overwritten at once.</summary>
    [Fact, Trait("Tier", "Slow")]
    public async Task Disposing_while_eight_threads_score_ends_no_process()
    {
        using var process = Process.Start(new ProcessStartInfo("dotnet",
            ["exec", typeof(DisposalTests).Assembly.Location, "--filter-class", "*." + nameof(DisposalTests), "--explicit", "only"])
        {
            RedirectStandardOutput = true,
            Environment = { ["MALLOC_PERTURB_"] = "165", ["OMP_NUM_THREADS"] = "1" },
        })!;
        using var patience = new Timer(_ => process.Kill(), null, TimeSpan.FromMinutes(2), Timeout.InfiniteTimeSpan);
        string output = await process.StandardOutput.ReadToEndAsync();
        await process.WaitForExitAsync();

        Assert.True(process.ExitCode == 0, $"The process ended with {process.ExitCode}:\n{output}");
        Assert.Contains("succeeded: 7", output, StringComparison.Ordinal);
        ResultLine.Print("dispose-while-scoring 8 threads, 7 kinds x 20 rounds: no crash, answers or ObjectDisposedException");
    }

    [Fact(Explicit = true)]
    public void Text_generation() => DisposeWhile(Tiny.Model, model => () => model.Generate("cat"));

    [Fact(Explicit = true)]
    public void Text_to_text() => DisposeWhile(Tiny.TextToText, model => () => model.Generate("cat"));

    [Fact(Explicit = true)]
    public void Features() => DisposeWhile(Tiny.Encoder, model => () => string.Join(' ', model.Embed("the cat sat")));

    [Fact(Explicit = true)]
    public void Scores() => DisposeWhile(Tiny.Reward, model => () => $"{model.Score("cat", "meow")}");

    [Fact(Explicit = true)]
    public void Best_of_n() => DisposeWhile(
        _ml.Rlhf().Transforms.BestOfN(Tiny.Model, Tiny.Reward, 3), model => () => $"{model.Generate("cat")}");

    [Fact(Explicit = true)]
    public void Streams() => DisposeWhile(Tiny.Model, model => () =>
    {
        var pieces = model.GenerateStreamingAsync("cat").ToBlockingEnumerable();
        return string.Concat(pieces);
    });

    [Fact(Explicit = true)]
    public void Prediction_engines_of_which_one_owns_it() => DisposeWhile(
        Tiny.Model,
        model =>
        {
            var engine = _ml.Model.CreatePredictionEngine<PromptOnly, Completed>(
                model, new PredictionEngineOptions { OwnsTransformer = false });
            return () => engine.Predict(new() { Prompt = "dog" }).Completion + // or it would remember its last answer
                engine.Predict(new() { Prompt = "cat" }).Completion;
        },
        model => _ml.Model.CreatePredictionEngine<PromptOnly, Completed>(model, new PredictionEngineOptions()).Dispose());

    private void DisposeWhile<T>(T original, Func<T, Func<string>> begin, Action<T>? dispose = null)
        where T : class, ITransformer, IDisposable
    {
        const int Rounds = 20;
        string expected = begin(original)();
        int answers = 0;
        for (int round = 0; round < Rounds; round++)
        {
            var model = Load(original);
            using var scored = new CountdownEvent(ManyThreads.Count);
            var disposal = Task.Run(() =>
            {
                scored.Wait(TimeSpan.FromSeconds(5)); // not for ever: a thread may have failed
                Thread.Sleep(Random.Shared.Next(3));
                (dispose ?? (m => m.Dispose()))(model);
            });
            answers += ManyThreads.Run(_ =>
            {
                var score = begin(model);
                int count = 0;
                try
                {
                    while (true)
                    {
                        Assert.Equal(expected, score());
                        if (count++ == 0)
                            scored.Signal();
                    }
                }
                catch (ObjectDisposedException e)
                {
                    Assert.StartsWith(Message, e.Message, StringComparison.Ordinal);
                }
                return count;
            }).Sum();
            disposal.Wait();
        }
        Assert.True(answers >= Rounds * ManyThreads.Count, $"Only {answers} answers.");
    }

    /// <summary>A copy with weights of its own.</summary>
    private T Load<T>(T model) where T : class, ITransformer
    {
        string path = Path.Combine(_folder, "model.zip");
        if (!File.Exists(path))
            _ml.Model.Save(model, null, path);
        return _ml.Rlhf().Models.Load<T>(path);
    }

    private sealed class Completed
    {
        public string Completion { get; set; } = "";
    }
}
