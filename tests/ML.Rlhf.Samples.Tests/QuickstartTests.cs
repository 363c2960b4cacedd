namespace ML.Rlhf.Samples.Tests;

public sealed class QuickstartTests
{
    [Fact]
    [Trait("Tier", "Slow")]
    public async Task A_corpus_that_is_not_there_is_an_error_that_names_it()
    {
        var (exitCode, output) = await Repository.DotNet("run", "samples/quickstart.cs", "--", "--corpus", "no-such-file.txt");
        Assert.NotEqual(0, exitCode);
        Assert.Contains("There is no corpus", output, StringComparison.Ordinal);
        Assert.Contains("no-such-file.txt", output, StringComparison.Ordinal);
    }
}
