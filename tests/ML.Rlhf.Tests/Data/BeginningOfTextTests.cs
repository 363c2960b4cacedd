using System.Text.Json.Nodes;
using Microsoft.ML;

namespace ML.Rlhf.Tests.Data;

/// <summary>Models such as Llama never saw a text that did not begin with their token for it.</summary>
public class BeginningOfTextTests
{
    private const string Beginning = "<s>";
    private static readonly Action s_none = () => { };
    private readonly MLContext _ml = new(seed: 1);

    private static TextTokenizer Tokenizer { get; } = new(Tiny.Bpe.Content with
    {
        Vocabulary = [.. Tiny.Bpe.Content.Vocabulary, Beginning],
        SpecialTokens = new(Tiny.Bpe.Content.SpecialTokens) { [Beginning] = Tiny.Bpe.VocabularySize },
        BeginningOfText = Beginning,
    });

    private static int First => Tokenizer.BeginningOfText!.Value;

    [Fact]
    public void Prompts_begin_with_it_and_completions_do_not()
    {
        int[] cat = Tokenizer.Encode("cat"), meow = Tokenizer.Encode("meow");
        Assert.Equal([First, .. cat], Tokenization.EncodePrompt(Tokenizer, "cat"));
        Assert.Equal([First], Tokenization.EncodePrompt(Tokenizer, ""));
        Assert.Equal([Tiny.Bpe.EndOfText], Tokenization.EncodePrompt(Tiny.Bpe, ""));

        var data = Tokenization.Demonstrations(
            _ml.Data.LoadFromEnumerable([new Demonstration { Prompt = "cat", Completion = "meow" }]), "Prompt", "Completion", Tokenizer,
            context: 32, Assert.Fail, s_none);
        Assert.Equal([First, .. cat, .. meow, Tokenizer.EndOfText], data.Sequences[0].ToArray());
        Assert.Equal(1 + cat.Length, data.PromptLengths[0]);
    }

    [Fact]
    public void Documents_begin_with_it()
    {
        IDataView Data(params string[] texts) => _ml.Data.LoadFromEnumerable(texts.Select(text => new Document { Text = text }).ToArray());

        var documents = Tokenization.Documents(Data("cat", "dog"), "Text", Tokenizer, s_none);

        Assert.Equal([First, .. Tokenizer.Encode("dog"), Tokenizer.EndOfText], documents[1].ToArray());
        Assert.Throws<InvalidOperationException>(() => Tokenization.Documents(Data("", ""), "Text", Tokenizer, s_none));
    }

    [Theory]
    [InlineData("config.json"), InlineData("generation_config.json")]
    public void A_pretrained_folder_names_it(string file)
    {
        using var model = Tiny.Train(Tokenizer);
        string folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;
        try
        {
            model.SavePretrained(folder);
            using var loaded = _ml.Rlhf().Models.FromPretrained(folder);

            var config = JsonNode.Parse(File.ReadAllText(Path.Combine(folder, file)))!;
            Assert.Equal(First, (int)config["bos_token_id"]!);
            Assert.Equal(Tokenizer.EndOfText, (int)config["eos_token_id"]!);
            Assert.Equal(First, loaded.Tokenizer.BeginningOfText);
            Assert.Equal(model.Generate("the cat"), loaded.Generate("the cat"));
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    [Fact]
    public void A_prompt_that_is_cut_keeps_it()
    {
        using var model = Tiny.Train(Tokenizer);
        string text = string.Concat(Enumerable.Repeat("the cat sat. ", 50));
        int[] tokens = Tokenizer.Encode(text);
        var sampling = new SamplingOptions { TruncatePrompts = true, Temperature = 0, MaxNewTokens = 1 };

        string cut = model.Generate(text, sampling);

        int room = model.Architecture.ContextLength - 1;
        using var noGrad = TorchSharp.torch.no_grad();
        long[] ids = [First, .. tokens[^(room - 1)..].Select(id => (long)id)];
        var next = model.Use(network => network.Logits(network.Hidden(TorchSharp.torch.tensor(ids).unsqueeze(0)))[0, -1].argmax());
        Assert.Equal(Tokenizer.Decode([(int)next.item<long>()]), cut);
    }
}
