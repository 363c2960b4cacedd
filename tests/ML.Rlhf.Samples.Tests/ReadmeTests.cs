using System.Text.RegularExpressions;

namespace ML.Rlhf.Samples.Tests;

/// <summary>What the README lists exists, and its programs run.</summary>
public sealed class ReadmeTests
{
    private static readonly string Readme = File.ReadAllText(Path.Combine(Repository.Root, "README.md"));

    [Fact]
    public void Every_folder_and_project_of_the_file_tree_exists()
    {
        string tree = Readme[Readme.IndexOf("## Where things are", StringComparison.Ordinal)..];
        var projects = Regex.Matches(tree, @"^  (ML\.Rlhf[\w.]*)/", RegexOptions.Multiline).Select(m => m.Groups[1].Value).ToArray();
        Assert.Equal(
            Directory.EnumerateDirectories(Path.Combine(Repository.Root,
            "src")).Concat(Directory.EnumerateDirectories(Path.Combine(Repository.Root, "tests")))
                .Select(Path.GetFileName).Where(name => name!.StartsWith("ML.", StringComparison.Ordinal)).Order(),
            projects.Order());

        foreach (string project in new[] { "ML.Rlhf", "ML.Rlhf.Torch" })
        {
            string section = Regex.Match(tree, $@"^  {Regex.Escape(project)}/.*?(?=^  \S|^\w)",
                RegexOptions.Multiline | RegexOptions.Singleline).Value;
            var listed = Regex.Matches(section, @"^    ((?:\w+/ ?)+)", RegexOptions.Multiline).SelectMany(m =>
                m.Groups[1].Value.Split('/', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries));
            var actual = Directory.EnumerateDirectories(Path.Combine(Repository.Root, "src",
                project)).Select(Path.GetFileName).Where(name => name is not ("bin" or "obj"));
            Assert.Equal(actual.Order(), listed.Order());
        }
    }

    [Fact]
    public void Every_sample_is_named_and_every_sample_named_exists() => Assert.Equal(
        Directory.EnumerateFiles(Path.Combine(Repository.Root, "samples"), "*.cs").Select(Path.GetFileName)
            .Where(name => !name!.StartsWith("readme-snippet", StringComparison.Ordinal)).Order(),
        Regex.Matches(Readme, @"samples/([\w-]+\.cs)").Select(m => m.Groups[1].Value).Distinct().Order());

    [Fact]
    [Trait("Tier", "Slow")]
    public async Task Programs_that_need_no_files_run_as_scripts()
    {
        var snippets = Snippets.All.Where(snippet => snippet is { Page: "README.md", ReadsFiles: false }).ToArray();
        Assert.NotEmpty(snippets);
        foreach (var snippet in snippets)
        {
            // Beside the samples, where the repository's build settings apply.
            string path = Path.Combine(Repository.Root, "samples", $"readme-snippet-{Guid.NewGuid():N}.cs");
            try
            {
                File.WriteAllText(path, "#!/usr/bin/env dotnet\n#:project ../src/ML.Rlhf/ML.Rlhf.csproj\n" + snippet.Code);
                var (exitCode, output) = await Repository.DotNet("run", path);
                Assert.True(exitCode == 0, snippet.Code + output);
            }
            finally
            {
                File.Delete(path);
            }
        }
    }
}
