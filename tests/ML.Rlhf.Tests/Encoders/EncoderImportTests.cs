using Microsoft.ML;
using ML.Rlhf.TestSupport;
using ML.Rlhf.Torch.Checkpoints;
using TorchSharp;
using EncoderModule = ML.Rlhf.Torch.Modules.Encoder;

namespace ML.Rlhf.Tests.Encoders;

/// <summary>Encoders from folders in Hugging Face's layout. That their numbers are transformers' is tested beside the module.</summary>
public sealed class EncoderImportTests : IDisposable
{
    private static readonly string[] s_words =
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "mat", "##s", "dog", ".", "ran"];

    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;
    private readonly MLContext _ml = new(seed: 1);

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void A_BERT_is_read_with_its_words_and_embeds_them()
    {
        using var network = WriteBert(TinyEncoder.Architecture with { VocabularySize = s_words.Length });

        using var model = _ml.Rlhf().Models.EncoderFromPretrained(_folder);

        Assert.Equal(("[MASK]", TokenizerKind.WordPiece), (model.MaskToken, model.Tokenizer.Kind));
        Assert.Equal(network.Architecture, model.Architecture);
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        var expected = network.Hidden(torch.tensor(new long[] { 2, 5, 6, 10, 7, 12, 3 }).unsqueeze(0)).mean([1]).data<float>().ToArray();
        float[] embedded = model.Embed("The cats sat.");
        for (int i = 0; i < expected.Length; i++)
            Assert.Equal(expected[i], embedded[i], 1e-5);
        var guesses = model.FillMask("The [MASK] sat.", top: s_words.Length);
        Assert.Equal("the dog sat.", Assert.Single(guesses, guess => guess.Token == "dog").Text);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void What_is_saved_is_read_again_and_goes_into_a_model_file(bool head)
    {
        WriteBert(TinyEncoder.Architecture with { VocabularySize = s_words.Length + 3, MaskedLanguageModelHead = head }).Dispose();
        using var model = _ml.Rlhf().Models.EncoderFromPretrained(_folder, pooling: EmbeddingPooling.Cls, normalizeFeatures: true);
        string copy = Path.Combine(_folder, "copy"), zip = Path.Combine(_folder, "model.zip");
        model.SavePretrained(copy);
        _ml.Model.Save(model, null, zip);

        using var again = _ml.Rlhf().Models.EncoderFromPretrained(
            copy, "A", "B", EmbeddingPooling.Cls, normalizeFeatures: true, tokenizer: model.Tokenizer);
        using var loaded = _ml.Rlhf().Models.Load<EncoderTransformer>(zip);

        Assert.Equal(("A", "B"), (again.TextColumnName, again.FeaturesColumnName));
        Assert.Equal(s_words.Length + 3, model.Tokenizer.VocabularySize); // ids that stand for nothing
        foreach (var other in (EncoderTransformer[])[again, loaded])
        {
            Assert.Equal(model.Architecture, other.Architecture);
            Assert.Equal(model.Embed("the cat sat"), other.Embed("the cat sat"));
            if (head)
                Assert.Equal(model.FillMask("the [MASK]"), other.FillMask("the [MASK]"));
            else
                Assert.StartsWith(
                    "This encoder cannot guess hidden tokens",
                    Assert.Throws<InvalidOperationException>(() => other.FillMask("the [MASK]")).Message);
        }
    }

    [Fact]
    public void A_RoBERTa_is_read_with_a_tokenizer_of_its_kind()
    {
        var tokenizer = ByteLevelBpeTrainer.Train(Tiny.Documents.Select(d => d.Text), 275, ["</s>", "<pad>", "<s>", "<mask>"]);
        var architecture = TinyEncoder.Architecture with
        {
            Family = EncoderFamily.Roberta, PositionOffset = 2, SegmentTypes = 1, VocabularySize = 275, NormEpsilon = 1e-5,
        };
        using var network = new EncoderModule(architecture, new torch.Generator(1, torch.CPU));
        EncoderCheckpoint.Save(network, _folder, padToken: 1);

        using var model = _ml.Rlhf().Models.EncoderFromPretrained(_folder, tokenizer: tokenizer);

        Assert.Equal(("<mask>", architecture), (model.MaskToken, model.Architecture));
        Assert.Equal(5, model.FillMask("the <mask> sat.").Count);
    }

    [Fact]
    public void A_tokenizer_without_the_special_tokens_or_with_too_many_is_refused()
    {
        WriteBert(TinyEncoder.Architecture with { VocabularySize = s_words.Length }).Dispose();

        Assert.StartsWith(
            "An encoder needs the special tokens [CLS], [SEP] and [MASK], or <s>, </s> and <mask>, but the byte tokenizer",
            Assert.Throws<ArgumentException>(() => _ml.Rlhf().Models.EncoderFromPretrained(
                WithVocabulary(300), tokenizer: _ml.Rlhf().Tokenizers.Bytes())).Message);
        Assert.StartsWith(
            "The tokenizer has 280 tokens, but the model only 14.",
            Assert.Throws<ArgumentException>(() => _ml.Rlhf().Models.EncoderFromPretrained(
                WithVocabulary(s_words.Length), tokenizer: Tiny.EncoderTokenizer)).Message);
    }

    private string WithVocabulary(int size)
    {
        WriteBert(TinyEncoder.Architecture with { VocabularySize = size }).Dispose();
        return _folder;
    }

    private EncoderModule WriteBert(EncoderArchitecture architecture)
    {
        var network = TinyEncoder.Random(architecture: architecture);
        EncoderCheckpoint.Save(network, _folder, padToken: 0);
        File.WriteAllLines(Path.Combine(_folder, "vocab.txt"), s_words);
        return network;
    }
}
