using System.IO.Compression;
using System.Text.RegularExpressions;
using System.Xml.Linq;

namespace ML.Rlhf.Samples.Tests.Packages;

/// <summary>The packages, as somebody gets them who has nothing else of this repository.</summary>
[Trait("Tier", "Slow")]
public sealed partial class PackageTests(Packed packed) : IClassFixture<Packed>
{
    private static readonly string[] s_libraries = ["ML.Rlhf", "ML.Rlhf.Torch", "ML.Rlhf.Bridge"];

    [Fact]
    public void Each_library_has_its_documentation_readme_icon_licence_and_symbols_with_sources()
    {
        foreach (string library in s_libraries)
        {
            using var package = Open($"{library}.{packed.Version}.nupkg");
            string[] files = [.. package.Entries.Select(entry => entry.FullName)];
            Assert.Superset(
                new HashSet<string> { $"lib/net10.0/{library}.dll", $"lib/net10.0/{library}.xml", "README.md", "icon.png" }, files.ToHashSet());
            Assert.Single(files, file => file.EndsWith(".dll", StringComparison.Ordinal)); // no copy of anybody else's
            var metadata = Metadata(package);
            Assert.Equal("MIT", metadata["license"]);
            Assert.NotEmpty(metadata["description"]);
            Assert.NotEmpty(metadata["tags"]);

            using var symbols = Open($"{library}.{packed.Version}.snupkg");
            var pdb = symbols.Entries.Single(entry => entry.Name == $"{library}.pdb");
            Assert.True(pdb.Length > package.Entries.Single(entry => entry.Name == $"{library}.dll").Length / 3, "The sources are in it.");
        }
    }

    [Fact]
    public void The_library_asks_for_the_versions_that_it_was_tried_with()
    {
        using var package = Open($"ML.Rlhf.{packed.Version}.nupkg");
        var dependencies = Nuspec(package).Descendants().Where(e => e.Name.LocalName == "dependency")
            .ToDictionary(e => e.Attribute("id")!.Value, e => e.Attribute("version")!.Value);

        Assert.Equal("[5.0.1, 7.0.0)", dependencies["Microsoft.ML"]);
        Assert.Equal(Repository.TorchSharpVersion, dependencies["TorchSharp"]);
        Assert.Equal(packed.Version, dependencies["ML.Rlhf.Torch"]);
        Assert.Equal(packed.Version, dependencies["ML.Rlhf.Bridge"]);
        Assert.DoesNotContain(dependencies.Keys, id => id.StartsWith("libtorch", StringComparison.Ordinal)); // the application chooses
    }

    /// <summary>The program in the package's own readme, to the letter but for the version and the system.</summary>
    [Fact]
    public async Task A_script_in_an_empty_folder_trains_saves_and_reloads_a_model()
    {
        string script = Readme().Replace("ML.Rlhf@" + Repository.Version, "ML.Rlhf@" + packed.Version).Replace("libtorch-cpu-linux-x64", Packed.LibTorch);
        string folder = packed.Folder(("tiny.cs", script));

        string output = await packed.DotNet(folder, "run", "tiny.cs");

        Assert.Matches("""PPO +8/8 loss .*\nthe dog .+\n$""", output.ReplaceLineEndings("\n"));
        Assert.True(File.Exists(Path.Combine(folder, "policy.zip")));
    }

    [Fact]
    public async Task A_project_that_knows_only_the_package_trains_saves_and_reloads_a_model()
    {
        string folder = packed.Folder(
            ("Tiny.csproj", $"""
            <Project Sdk="Microsoft.NET.Sdk">
              <PropertyGroup>
                <OutputType>Exe</OutputType>
                <TargetFramework>net10.0</TargetFramework>
                <ImplicitUsings>enable</ImplicitUsings>
                <Nullable>enable</Nullable>
                <TreatWarningsAsErrors>true</TreatWarningsAsErrors>
              </PropertyGroup>
              <ItemGroup>
                <PackageReference Include="ML.Rlhf" Version="{packed.Version}" />
                <PackageReference Include="{Packed.LibTorch}" Version="2.10.0" />
              </ItemGroup>
            </Project>
            """),
            ("Program.cs", PackageDirective().Replace(Readme(), "")));

        string output = await packed.DotNet(folder, "run");

        Assert.Matches("""PPO +8/8 loss .*\nthe dog .+\n$""", output.ReplaceLineEndings("\n"));
    }

    [Fact]
    public async Task Each_template_makes_a_project_that_trains_under_the_users_name()
    {
        string folder = packed.Folder(), hive = Path.Combine(folder, ".hive");
        await packed.DotNet(folder, "new", "install", Path.Combine(packed.Feed, $"ML.Rlhf.Templates.{packed.Version}.nupkg"), "--debug:custom-hive", hive);
        foreach (var (template, name, expected) in new[]
        {
            ("rlhf-sft", "Summaries", @"loss \d\.\d{3} nats per token, perplexity \d+\.\d\d\n.+ -> .*\n$"),
            ("rlhf-reward", "Judge", @"\d+ pairs: accuracy \d\.\d{3} .*\n(.+  score -?\d+\.\d\d\n){2}$"),
            ("rlhf-ppo", "Helper", @"loss of chosen answers \d\.\d{3}, of rejected ones \d\.\d{3} nats per token\n.+ -> .*\n$"),
        })
        {
            await packed.DotNet(folder, "new", template, "-n", name, "--rlhf-version", packed.Version, "--debug:custom-hive", hive);
            string project = Path.Combine(folder, name);
            Assert.Equal(
                new HashSet<string?> { $"{name}.consumption.cs", $"{name}.csproj", $"{name}.evaluate.cs", $"{name}.jsonl", $"{name}.test.jsonl",
                    $"{name}.training.cs", "Program.cs" },
                Directory.GetFiles(project).Select(Path.GetFileName).ToHashSet());

            string output = await packed.DotNet(project, "run", "--", "--fast");

            Assert.Matches(expected, output.ReplaceLineEndings("\n"));
            Assert.True(File.Exists(Path.Combine(project, name + ".mlnet")));
        }
    }

    [Fact]
    public async Task A_template_reads_the_users_own_data_instead_of_its_own()
    {
        string folder = packed.Folder(), hive = Path.Combine(folder, ".hive");
        await packed.DotNet(folder, "new", "install", Path.Combine(packed.Feed, $"ML.Rlhf.Templates.{packed.Version}.nupkg"), "--debug:custom-hive", hive);
        await packed.DotNet(folder, "new", "rlhf-sft", "-n", "Mine", "--data", "../texts.jsonl", "--test-data", "../held-out.jsonl", "--debug:custom-hive", hive);

        Assert.Empty(Directory.GetFiles(Path.Combine(folder, "Mine"), "*.jsonl"));
        Assert.Contains("RetrainFilePath = \"../texts.jsonl\"", File.ReadAllText(Path.Combine(folder, "Mine", "Mine.training.cs")));
        Assert.Contains("TestFilePath = \"../held-out.jsonl\"", File.ReadAllText(Path.Combine(folder, "Mine", "Program.cs")));
    }

    [Fact]
    public void A_template_asks_for_the_version_of_the_library_that_it_came_with()
    {
        foreach (string file in Directory.GetFiles(Path.Combine(Repository.Root, "src", "ML.Rlhf.Templates"), "template.json", new EnumerationOptions
        {
            RecurseSubdirectories = true, AttributesToSkip = 0,
        }))
            Assert.Contains($"\"defaultValue\": \"{Repository.Version}\"", File.ReadAllText(file));
    }

    private ZipArchive Open(string file) => ZipFile.OpenRead(Path.Combine(packed.Feed, file));

    private static XDocument Nuspec(ZipArchive package)
    {
        using var stream = package.Entries.Single(entry => entry.Name.EndsWith(".nuspec", StringComparison.Ordinal)).Open();
        return XDocument.Load(stream);
    }

    private static Dictionary<string, string> Metadata(ZipArchive package) => Nuspec(package).Root!.Elements().Single().Elements()
        .Where(e => !e.HasElements).ToDictionary(e => e.Name.LocalName, e => e.Value);

    private static string Readme() => Snippet().Match(File.ReadAllText(Path.Combine(Repository.Root, "src", "ML.Rlhf", "README.md"))).Groups[1].Value;

    [GeneratedRegex("```csharp\n(.*?)```", RegexOptions.Singleline)]
    private static partial Regex Snippet();

    [GeneratedRegex("^#:package .*\n", RegexOptions.Multiline)]
    private static partial Regex PackageDirective();
}
