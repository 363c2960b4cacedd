using Microsoft.ML;
using Microsoft.ML.Tokenizers;

namespace ML.Rlhf.Tests.Tokenizers;

public class TiktokenTests
{
    private static readonly Lazy<TextTokenizer> s_cl100k = new(() => new MLContext().Rlhf().Tokenizers.Tiktoken("cl100k_base"));

    [Fact]
    public void Ids_are_those_of_the_library_that_ships_the_vocabulary()
    {
        var reference = TiktokenTokenizer.CreateForEncoding("cl100k_base");
        var random = new Random(11);
        string[] texts = [TokenizerFixtures.Corpus, .. Enumerable.Range(0, 1000).Select(_ => TokenizerFixtures.RandomText(random))];
        foreach (string text in texts.Where(text => !text.Any(char.IsSurrogate))) // which that library's expression takes for signs
        {
            int[] ids = s_cl100k.Value.Encode(text, recognizeSpecialTokens: true); // as it always does
            Assert.Equal(reference.EncodeToIds(text), ids);
            Assert.Equal(text, s_cl100k.Value.Decode(ids, includeSpecialTokens: true));
        }
    }

    /// <summary>The examples of the encoding's documentation.</summary>
    [Fact]
    public void Known_ids_are_found()
    {
        Assert.Equal([15339, 1917], s_cl100k.Value.Encode("hello world"));
        Assert.Equal([83, 1609, 5963, 374, 2294, 0], s_cl100k.Value.Encode("tiktoken is great!"));
        Assert.Equal([100257], s_cl100k.Value.Encode("<|endoftext|>", recognizeSpecialTokens: true));
        Assert.Equal((100277, 100257), (s_cl100k.Value.VocabularySize, s_cl100k.Value.EndOfText));
    }

    [Fact]
    public void A_missing_package_is_named()
    {
        var error = Assert.Throws<FileNotFoundException>(() => new MLContext().Rlhf().Tokenizers.Tiktoken("o200k_base"));
        Assert.Contains("dotnet add package Microsoft.ML.Tokenizers.Data.O200kBase", error.Message);
        var unknown = Assert.Throws<ArgumentException>(() => new MLContext().Rlhf().Tokenizers.Tiktoken("gpt-4"));
        Assert.Contains("gpt2, r50k_base, p50k_base, cl100k_base, o200k_base", unknown.Message);
    }
}
