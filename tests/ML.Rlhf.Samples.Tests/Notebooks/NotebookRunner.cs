using System.Reflection;
using System.Text.RegularExpressions;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Scripting;
using Microsoft.CodeAnalysis.Scripting;
using Microsoft.CodeAnalysis.Scripting.Hosting;

namespace ML.Rlhf.Samples.Tests.Notebooks;

/// <summary>
/// Runs the cells of a notebook in this process, one after another, as the kernel of a .NET notebook does: as C# scripts, each going on
/// where the last one ended.
/// </summary>
/// <remarks>The process has one console and one current folder, so notebooks run one at a time.</remarks>
internal sealed partial class NotebookRunner
{
    /// <summary>What the kernel imports.</summary>
    private static readonly string[] s_imports =
    [
        "System", "System.Text", "System.Collections", "System.Collections.Generic", "System.Threading.Tasks", "System.Linq",
        "ML.Rlhf.Samples.Tests.Notebooks",
    ];

    private readonly InteractiveAssemblyLoader _loader = new();
    private readonly ScriptOptions _options;
    private ScriptState<object?>? _state;

    public NotebookRunner()
    {
        // Scripts get the assemblies that are loaded here, not copies: libtorch can be loaded once.
        foreach (string own in Repository.ManagedAssemblies.Where(path => path.StartsWith(AppContext.BaseDirectory, StringComparison.Ordinal)))
            _loader.RegisterDependency(Assembly.Load(AssemblyName.GetAssemblyName(own)));
        _options = ScriptOptions.Default.WithReferences(Repository.ManagedAssemblies.Select(path => MetadataReference.CreateFromFile(path)))
            .WithImports(s_imports).WithLanguageVersion(LanguageVersion.Latest);
    }

    /// <summary>Packages that cells asked for, with their versions.</summary>
    public List<(string Id, string Version)> Packages { get; } = [];

    /// <summary>Runs all cells, and puts what they give into the notebook.</summary>
    public async Task Run(Notebook notebook)
    {
        int count = 0;
        foreach (var cell in notebook.Code)
            cell.SetOutputs(++count, await Run(cell.Source));
    }

    private async Task<List<Output>> Run(string source)
    {
        var outputs = new List<Output>();
        var console = new StringWriter { NewLine = "\n" };
        var before = Console.Out;
        Console.SetOut(console);
        Display.Into(outputs);
        object? value;
        try
        {
            string code = string.Join('\n', source.Split('\n').Select(WithoutDirective));
            _state = _state is null
                ? await CSharpScript.Create<object?>(code, _options, assemblyLoader: _loader).RunAsync()
                : await _state.ContinueWithAsync<object?>(code, _options);
            value = _state.ReturnValue;
        }
        catch (Exception e)
        {
            throw new InvalidOperationException($"This cell failed: {e.Message}\n{source}", e);
        }
        finally
        {
            Display.Into(null);
            Console.SetOut(before);
        }
        if (console.ToString() is { Length: > 0 } printed)
            outputs.Insert(0, new Output("stream", new Dictionary<string, string> { ["stdout"] = printed }));
        if (value is not null)
            outputs.Add(new Output("execute_result", Display.Bundle(value)));
        return outputs;
    }

    /// <summary>Packages are here already.</summary>
    private string WithoutDirective(string line)
    {
        if (PackageDirective().Match(line) is { Success: true } match)
            Packages.Add((match.Groups["id"].Value, match.Groups["version"].Value));
        return line.StartsWith('#') ? "//" + line : line;
    }

    [GeneratedRegex("""^#r "nuget: *(?<id>[^,"\s]+), *(?<version>[^"]+)"$""")]
    private static partial Regex PackageDirective();
}
