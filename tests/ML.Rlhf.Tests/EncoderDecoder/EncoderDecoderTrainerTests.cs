using Microsoft.ML;

namespace ML.Rlhf.Tests.EncoderDecoder;

public sealed class EncoderDecoderTrainerTests
{
    private readonly MLContext _ml = new(seed: 1);

    [Fact]
    public void It_learns_the_completions_of_its_prompts()
    {
        using var model = Tiny.TrainTextToText(new EncoderDecoderOptions
        {
            Architecture = Tiny.EncoderDecoderArchitecture, Tokenizer = Tiny.Letters, Epochs = 60, BatchSize = 8, LearningRate = 1e-2,
            WarmupSteps = 10, Dropout = 0,
        });

        Assert.Equal(Tiny.Demonstrations.Select(d => d.Completion), model.Generate([.. Tiny.Prompts.Select(p => p.Prompt)]));
    }

    [Fact]
    public void Without_a_tokenizer_it_trains_one_on_prompts_and_completions()
    {
        var rows = Enumerable.Range(0, 20).Select(_ => new Demonstration { Prompt = "uvw", Completion = "xyz" });

        using var model = _ml.Rlhf().Trainers.EncoderDecoder(new EncoderDecoderOptions
        {
            Architecture = Tiny.EncoderDecoderArchitecture with { VocabularySize = 261 }, Epochs = 1, Dropout = 0,
        }).Fit(_ml.Data.LoadFromEnumerable(rows));

        Assert.Equal(TokenizerKind.ByteLevelBpe, model.Tokenizer.Kind);
        Assert.Equal((261, 261), (model.Tokenizer.VocabularySize, model.Architecture.VocabularySize));
        Assert.Single(model.Tokenizer.Encode("uvw"));
        Assert.Single(model.Tokenizer.Encode("xyz"));
    }

    [Fact]
    public void What_does_not_fit_the_context_is_counted_in_warnings()
    {
        var warnings = _ml.Warnings();
        string fits = new('a', 31), tooLong = new('a', 32);
        Demonstration[] rows =
        [
            new() { Prompt = fits, Completion = fits }, new() { Prompt = tooLong, Completion = "a" },
            new() { Prompt = "a", Completion = tooLong },
        ];

        _ml.Rlhf().Trainers.EncoderDecoder(new EncoderDecoderOptions
        {
            Architecture = Tiny.EncoderDecoderArchitecture, Tokenizer = Tiny.Letters, Epochs = 1, WarmupSteps = 0, Dropout = 0,
        }).Fit(_ml.Data.LoadFromEnumerable(rows)).Dispose();

        Assert.Equal(
            ["1 of 3 rows were left out: their prompts do not fit the model's context of 32 tokens.",
                "1 of 3 completions were cut at the model's context of 32 tokens."],
            warnings);
    }

    [Fact]
    public void The_shape_of_an_encoder_decoder_is_none_of_a_GPT()
    {
        var options = new GptOptions { Architecture = Tiny.EncoderDecoderArchitecture, Tokenizer = Tiny.Letters, Steps = 1 };

        Assert.Equal(
            "A model of an EncoderDecoderArchitecture does not go on with a text: train it with Trainers.EncoderDecoder.",
            Assert.Throws<ArgumentException>(
                () => { _ml.Rlhf().Trainers.Gpt(options).Fit(_ml.Data.LoadFromEnumerable(Tiny.Documents)); }).Message);
    }
}
