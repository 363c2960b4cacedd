using System.Globalization;
using System.Runtime.InteropServices;
using Microsoft.ML;
using Microsoft.ML.Data;
using ML.Rlhf.Tests.Catalog;
using TorchSharp;

namespace ML.Rlhf.Tests.Memory;

/// <summary>
/// What is asked for is more than any machine has, so that libtorch really refuses it, and at once. Nothing of the attempt stays, and
/// the process goes on as before.
/// </summary>
public sealed class OutOfMemoryTests
{
    private readonly MLContext _ml = new(seed: 1);

    [Theory, EveryStage]
    public void Training_says_what_was_asked_for_and_what_to_lower(Stage stage)
    {
        var weights = Tiny.Weights(Tiny.Model);
        Fail(); // what is made once per process is not a leak
        long before = LiveTensors();

        var error = Fail();

        string other = stage.IsOnline() ? "lower EpisodesPerUpdate (4) or MaxResponseTokens (4)" : "lower BatchSize";
        Assert.Equal(
            $"{stage.ProgressName()} training ran out of memory: 4194304.00 GiB more were asked for at once. Set MicroBatchSize to a part " +
            $"of the batch, which changes nothing but rounding. Where that is not enough, {other}, shorten the texts, or train a smaller " +
            "model or one with a shorter context.", error.Message);
        Assert.Equal(before, LiveTensors());
        Assert.Equal(weights, Tiny.Weights(Tiny.Model));
        ((IDisposable)stage.Trainer(_ml).Fit(stage.Data(_ml))).Dispose();

        InsufficientMemoryException Fail() => Assert.Throws<InsufficientMemoryException>(() =>
        {
            var greedy = new ProgressRecords(p => { if (p.Step == 2) torch.empty(1L << 50).Dispose(); });
            stage.Trainer(_ml, new StageSettings { Steps = 4, Progress = greedy }).Fit(stage.Data(_ml));
        });
    }

    /// <summary>With dropout, attention needs a matrix of all pairs of tokens: here, twice as many bytes as the machine has.</summary>
    [Fact]
    public void A_context_whose_attention_no_memory_holds_is_refused_and_a_smaller_one_trains_afterwards()
    {
        int context = LongContext();
        var data = _ml.Data.LoadFromEnumerable(new[] { new Document { Text = new string('a', context + 1) } });
        GptTrainer Trainer(int contextLength) => _ml.Rlhf().Trainers.Gpt(new GptOptions
        {
            Architecture = Narrow(contextLength), Tokenizer = Tiny.Letters, Steps = 2, BatchSize = 1, MicroBatchSize = 1, Dropout = 0.1,
        });
        long before = LiveTensors();

        var error = Assert.Throws<InsufficientMemoryException>(() => { Trainer(context).Fit(data); });

        Assert.StartsWith("GPT training ran out of memory: ", error.Message);
        Assert.Contains("Lower MicroBatchSize (1), which changes nothing but rounding.", error.Message);
        Assert.Equal(before, LiveTensors());
        Trainer(32).Fit(data).Dispose();
        Assert.Equal(before, LiveTensors());
    }

    /// <summary>Prompts of different lengths need a mask of all pairs of tokens.</summary>
    [Fact]
    public void Prompts_whose_mask_no_memory_holds_are_refused_and_shorter_ones_are_completed_afterwards()
    {
        int context = LongContext();
        using var model = _ml.Rlhf().Trainers.Gpt(new GptOptions
        {
            Architecture = Narrow(context), Tokenizer = Tiny.Letters, Steps = 1, BatchSize = 1, PromptColumnName = "Prompt",
            Sampling = new SamplingOptions { MaxNewTokens = 3 },
        }).Fit(_ml.Data.LoadFromEnumerable(Tiny.Documents));
        string[] prompts = ["cat", new('a', context - 5)];
        string answer = model.Generate("cat");
        long before = LiveTensors();

        var error = Assert.Throws<InsufficientMemoryException>(() => model.Generate(prompts));
        var inPipeline = Assert.Throws<InsufficientMemoryException>(
            () => model.Transform(_ml.View(prompts)).GetColumn<string>("Completion").ToArray());

        Assert.StartsWith("Running the model ran out of memory: ", error.Message);
        Assert.EndsWith(
            " GiB more were asked for at once. Pass fewer or shorter texts at a time, or draw fewer new tokens. A smaller model or one " +
            "with a shorter context needs less, too.", error.Message);
        Assert.Equal(error.Message, inPipeline.Message);
        Assert.Equal(before, LiveTensors());
        Assert.Equal(answer, model.Generate("cat"));
    }

    /// <summary>Everything that runs a model, on models whose states are wider than an address can count.</summary>
    [Fact]
    public async Task Whatever_runs_a_model_says_that_memory_ran_out()
    {
        using var text = Tiny.Train();
        using var chat = text.WithChatTemplate(new ChatTemplateCatalog().FromJinja("{{ messages[0].content }}"));
        using var reward = Tiny.TrainReward(Tiny.Model);
        using var best = _ml.Rlhf().Transforms.BestOfN(text, Tiny.Reward, 2);
        using var encoder = Tiny.TrainEncoder();
        using var textToText = Tiny.TrainTextToText();
        Widen(text.Module, reward.Module, encoder.Module, textToText.Module);
        async Task Stream()
        {
            await foreach (string _ in text.GenerateStreamingAsync("cat", cancellationToken: TestContext.Current.CancellationToken))
                Assert.Fail("A token was drawn.");
        }

        await Assert.ThrowsAsync<InsufficientMemoryException>(Stream);
        foreach (var run in new Action[]
        {
            () => text.Generate("cat"), () => chat.Chat([ChatMessage.User("cat")]), () => text.GetAttentionWeights("cat"),
            () => reward.Score("cat", "meow"), () => best.Generate("cat"), () => encoder.Embed("cat"),
            () => encoder.FillMask($"the {encoder.MaskToken} ran."), () => textToText.Generate("cat"),
        })
        {
            long before = LiveTensors();
            Assert.StartsWith("Running the model ran out of memory: ", Assert.Throws<InsufficientMemoryException>(run).Message);
            Assert.Equal(before, LiveTensors());
        }
    }

    [Theory]
    [InlineData("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 5.00 GiB is free.",
        "DPO training ran out of the GPU's memory: 20.00 GiB more were asked for at once. Set MicroBatchSize")]
    [InlineData("DefaultCPUAllocator: not enough memory: you tried to allocate 1610612736 bytes.",
        "DPO training ran out of memory: 1.50 GiB more were asked for at once. Set MicroBatchSize")]
    [InlineData("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "DPO training ran out of the GPU's memory. Set MicroBatchSize")]
    [InlineData("The size of tensor a (3) must match the size of tensor b (4) at non-singleton dimension 0", null)]
    public void Every_way_in_which_libtorch_says_so_is_understood(string message, string? start)
    {
        var explanation = OutOfMemory.OfTraining(new ExternalException(message), "DPO", new DpoOptions());

        if (start is null)
            Assert.Null(explanation);
        else
            Assert.StartsWith(start, explanation!.Message);
    }

    private static GptArchitecture Narrow(int contextLength) =>
        GptArchitecture.Nano with { Layers = 1, Heads = 1, Width = 2, ContextLength = contextLength };

    /// <summary>
    /// Gives the embeddings rows of 2⁴⁸ numbers, which all are the same one in memory; to look one up would need memory for each.
    /// </summary>
    private static void Widen(params torch.nn.Module[] modules)
    {
        using var noGrad = torch.no_grad();
        using var scope = torch.NewDisposeScope();
        foreach (var module in modules)
        {
            var embedding = module.parameters().First();
            embedding.set_(torch.zeros(1).expand(embedding.shape[0], 1L << 48));
        }
    }

    /// <summary>The square of it is twice the bytes of memory that there are; Linux refuses more than there are at once.</summary>
    private static int LongContext()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Other systems promise more memory than there is.");
        Assert.SkipWhen(File.ReadAllText("/proc/sys/vm/overcommit_memory").Trim() == "1", "This system promises more memory than there is.");
        long kilobytes = File.ReadLines("/proc/meminfo").Where(line => line.StartsWith("MemTotal:") || line.StartsWith("SwapTotal:"))
            .Sum(line => long.Parse(line.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1], CultureInfo.InvariantCulture));
        return (int)Math.Sqrt(2.0 * 1024 * kilobytes);
    }

    private static long LiveTensors() => DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;
}
