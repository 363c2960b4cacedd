using ML.Rlhf.Torch.Native;

namespace ML.Rlhf.Torch.Tests.Native;

/// <summary>What a user's application meets: a console project of its own, outside of this repository, in a process of its own.</summary>
[Trait("Tier", "Slow")]
public sealed class FreshProcessTests : IDisposable
{
    private const string Program = """
        using ML.Rlhf.Torch.Native;
        using TorchSharp;

        try
        {
            LibTorch.EnsureLoaded();
            Console.WriteLine($"sum = {torch.ones(2).sum().item<float>()}");
        }
        catch (DllNotFoundException e)
        {
            Console.WriteLine(e.Message);
        }
        """;

    private readonly string _folder = Directory.CreateTempSubdirectory("ml-rlhf-app-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void Without_a_backend_the_error_names_the_package_to_add_and_TorchSharp_is_silent()
    {
        Build(backend: null);

        var output = Run();

        Assert.StartsWith("libtorch was not found", output);
        Assert.Contains($"dotnet add package libtorch-cpu-{NativeFolders.Rid} --version 2.10.0", output);
        Assert.Contains(Path.Combine("bin", "runtimes"), output);
        Assert.DoesNotContain("Trace from LoadNativeBackend", output);
    }

    [Fact]
    public void With_a_backend_torch_works_with_a_home_without_one_and_with_a_home_that_is_read_only()
    {
        Build(backend: $"libtorch-cpu-{NativeFolders.Rid}");

        var cache = Path.Combine(_folder, "cache");
        Assert.Equal("sum = 2", Run(("XDG_CACHE_HOME", cache)));
        Assert.Equal(OldLinux.IsThis(), Directory.Exists(cache)); // a newer system needs no copy, and gets none

        Assert.Equal("sum = 2", Run(("HOME", null), ("XDG_CACHE_HOME", null)));

        // Not even root can make a file in /proc.
        var temporary = Directory.CreateDirectory(Path.Combine(_folder, "tmp")).FullName;
        var readOnly = OperatingSystem.IsLinux() ? "/proc" : _folder;
        Assert.Equal("sum = 2", Run(("HOME", readOnly), ("XDG_CACHE_HOME", null), ("TMPDIR", temporary)));
        Assert.Empty(Directory.GetDirectories(temporary, "ml-rlhf-*"));
    }

    private void Build(string? backend)
    {
        var reference = backend is null ? "" : $"""<PackageReference Include="{backend}" Version="2.10.0" />""";
        File.Copy(Path.Combine(RepositoryRoot(), "NuGet.config"), Path.Combine(_folder, "NuGet.config"));
        File.WriteAllText(Path.Combine(_folder, "Program.cs"), Program);
        File.WriteAllText(Path.Combine(_folder, "App.csproj"), $"""
            <Project Sdk="Microsoft.NET.Sdk">
              <PropertyGroup>
                <OutputType>Exe</OutputType>
                <TargetFramework>net10.0</TargetFramework>
                <ImplicitUsings>enable</ImplicitUsings>
                <NuGetAudit>false</NuGetAudit>
                <CreateSymbolicLinksForCopyLocalIfPossible>true</CreateSymbolicLinksForCopyLocalIfPossible>
              </PropertyGroup>
              <ItemGroup>
                <Reference Include="ML.Rlhf.Torch"><HintPath>{typeof(LibTorch).Assembly.Location}</HintPath></Reference>
                <PackageReference Include="TorchSharp" Version="0.107.0" />
                {reference}
              </ItemGroup>
            </Project>
            """);
        Dotnet(["build", "--output", "bin", "--nologo", "--verbosity", "quiet"]);
    }

    private string Run(params (string Name, string? Value)[] environment) => Dotnet([Path.Combine("bin", "App.dll")], environment);

    private string Dotnet(string[] arguments, params (string Name, string? Value)[] environment)
    {
        var result = DotNet.Run(_folder, arguments, environment).GetAwaiter().GetResult();
        Assert.True(result.ExitCode == 0, result.Everything);
        return result.Everything.Trim();
    }

    private static string RepositoryRoot()
    {
        var folder = AppContext.BaseDirectory;
        while (!File.Exists(Path.Combine(folder, "NuGet.config")))
            folder = Path.GetDirectoryName(folder) ?? throw new InvalidOperationException("No NuGet.config above the test's output.");
        return folder;
    }
}
