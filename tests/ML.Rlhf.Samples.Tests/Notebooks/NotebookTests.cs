namespace ML.Rlhf.Samples.Tests.Notebooks;

/// <summary>
/// Each notebook runs from top to bottom and gives the kinds of output that are committed with it. <c>WRITE_NOTEBOOKS=1</c> writes what it
/// gave back into its file.
/// </summary>
[Trait("Tier", "Slow")]
public sealed class NotebookTests
{
    private static readonly string s_folder = Path.Combine(Repository.Root, "notebooks");

    public static TheoryData<string> Names => [.. Directory.GetFiles(s_folder, "*.ipynb").Select(file => Path.GetFileNameWithoutExtension(file)).Order()];

    [Theory]
    [MemberData(nameof(Names))]
    public async Task A_notebook_gives_what_is_committed_with_it(string name)
    {
        string file = Path.Combine(s_folder, name + ".ipynb");
        var notebook = Notebook.Read(file);
        string[][] committed = [.. notebook.Code.Select(cell => cell.Outputs)];
        var runner = new NotebookRunner();
        string before = Environment.CurrentDirectory;
        Environment.CurrentDirectory = s_folder;
        try
        {
            await runner.Run(notebook);
        }
        finally
        {
            Environment.CurrentDirectory = before;
        }
        if (Environment.GetEnvironmentVariable("WRITE_NOTEBOOKS") == "1")
            notebook.Write(file);

        Assert.Equal(4, notebook.Format);
        Assert.Equal(".net-csharp", notebook.Kernel);
        Assert.Equal([("ML.Rlhf", Repository.Version), ("TorchSharp-cpu", Repository.TorchSharpVersion)], runner.Packages);
        Assert.Equal(committed, notebook.Code.Select(cell => cell.Outputs));
        Assert.Contains("text/html", committed.SelectMany(kinds => kinds)); // a picture
    }

    [Fact]
    public void There_is_a_notebook_for_each_part_of_the_course() => Assert.Equal(8, Names.Count);
}
