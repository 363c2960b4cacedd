using System.Reflection;
using System.Runtime.CompilerServices;
using PublicApiGenerator;

namespace ML.Rlhf.Tests.PublicApi;

/// <summary>
/// The public API of each assembly, as an approved text. To approve a change that is meant, run the tests with ACCEPT_PUBLIC_API=1 in the
/// environment and commit the files that it rewrites.
/// </summary>
public sealed class PublicApiTests
{
    private const string Accept = "ACCEPT_PUBLIC_API";

    public static TheoryData<string> Assemblies => ["ML.Rlhf", "ML.Rlhf.Torch", "ML.Rlhf.Bridge"];

    [Theory, MemberData(nameof(Assemblies))]
    public void It_is_the_one_that_was_approved(string assembly)
    {
        string path = PathOf(assembly), received = Generate(assembly);
        if (Environment.GetEnvironmentVariable(Accept) == "1")
            File.WriteAllText(path, received);
        string approved = File.Exists(path) ? File.ReadAllText(path).ReplaceLineEndings("\n") : "";

        Assert.True(received == approved,
            $"The public API of {assembly} is not the approved one:\n{Difference(approved, received)}\n" +
            $"If you meant that, run this test with {Accept}=1 in the environment and commit {path}; " +
            "if a user's code can break by it, say so in CHANGELOG.md.");
    }

    private static string Generate(string assembly) => Assembly.Load(assembly).GeneratePublicApi(new ApiGeneratorOptions
    {
        IncludeAssemblyAttributes = false,
        DenyNamespacePrefixes = [], // by default, types in namespaces such as Microsoft are left out
    }).ReplaceLineEndings("\n").TrimEnd() + "\n";

    /// <summary>Lines that only one of the two has.</summary>
    private static string Difference(string approved, string received)
    {
        string[] before = approved.Split('\n'), after = received.Split('\n');
        var lines = before.Except(after).Select(line => "- " + line.Trim()).Concat(after.Except(before).Select(line => "+ " + line.Trim()));
        return string.Join("\n", lines);
    }

    private static string PathOf(string assembly, [CallerFilePath] string thisFile = "") =>
        Path.Combine(Path.GetDirectoryName(thisFile)!, assembly + ".approved.txt");
}
