using System.Text.RegularExpressions;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;

namespace ML.Rlhf.Samples.Tests;

/// <summary>A program that a page shows.</summary>
/// <param name="Page">The page, from the repository's root.</param>
/// <param name="Code">All of it.</param>
internal sealed record Snippet(string Page, string Code)
{
    /// <summary>Whether it reads files that only a reader has.</summary>
    public bool ReadsFiles => s_files.Any(name => Code.Contains(name, StringComparison.Ordinal));

    private static readonly string[] s_files = [".jsonl", ".zip", "FromPretrained"];
}

/// <summary>The programs that README and docs show, and a compiler for them that needs no process of its own.</summary>
internal static partial class Snippets
{
    /// <summary>What the SDK imports into every program.</summary>
    private const string ImplicitUsings = """
        global using System;
        global using System.Collections.Generic;
        global using System.IO;
        global using System.Linq;
        global using System.Net.Http;
        global using System.Threading;
        global using System.Threading.Tasks;
        """;

    private static readonly CSharpParseOptions s_language = new(LanguageVersion.Preview);

    private static readonly CSharpCompilationOptions s_options = new(
        OutputKind.ConsoleApplication, nullableContextOptions: NullableContextOptions.Enable);

    private static readonly Lazy<MetadataReference[]> s_references = new(() =>
        [.. Repository.ManagedAssemblies.Select(path => MetadataReference.CreateFromFile(path))]);

    /// <summary>README and the pages of docs, from the repository's root.</summary>
    public static IReadOnlyList<string> Pages { get; } =
    [
        "README.md",
        .. Directory.EnumerateFiles(Path.Combine(Repository.Root, "docs"), "*.md").Select(file => "docs/" + Path.GetFileName(file)).Order(),
    ];

    /// <summary>All of their C# programs.</summary>
    public static IReadOnlyList<Snippet> All { get; } =
    [
        .. Pages.SelectMany(page => CodeBlock().Matches(Read(page)).Select(match => new Snippet(page, match.Groups[1].Value))),
    ];

    /// <summary>The text of a page.</summary>
    public static string Read(string page) => File.ReadAllText(Path.Combine(Repository.Root, page));

    /// <summary>What the compiler says of a program: errors, and warnings that the SDK would show.</summary>
    public static IReadOnlyList<string> Problems(Snippet snippet) =>
    [
        .. CSharpCompilation.Create(
                "snippet", [CSharpSyntaxTree.ParseText(ImplicitUsings, s_language), CSharpSyntaxTree.ParseText(snippet.Code, s_language)],
                s_references.Value, s_options)
            .GetDiagnostics().Where(problem => problem.Severity >= DiagnosticSeverity.Warning).Select(problem => problem.ToString()),
    ];

    [GeneratedRegex("^```csharp\n(.*?)^```", RegexOptions.Singleline | RegexOptions.Multiline)]
    private static partial Regex CodeBlock();
}
