using ML.Rlhf.Torch.Native;
using TorchSharp;

namespace ML.Rlhf.Torch.Tests.Native;

public class LibTorchTests
{
    [Fact]
    public void Torch_works_in_this_process()
    {
        LibTorch.EnsureLoaded();

        using var sum = torch.ones(2).sum();
        Assert.Equal(2f, sum.item<float>());
    }

    [Fact]
    public void The_backend_version_that_errors_name_is_the_one_that_TorchSharp_is_built_for()
    {
        LibTorch.EnsureLoaded();

        Assert.StartsWith(LibTorch.LibTorchVersion, torch.__version__);
    }

    [Theory]
    [InlineData("linux-x64")]
    [InlineData("win-x64")]
    [InlineData("osx-arm64")]
    public void Without_a_backend_the_error_names_the_packages_to_add_and_the_folders_searched(string rid)
    {
        var message = LibTorch.MissingMessage(rid, ["/first/folder", "/second/folder"]);

        Assert.StartsWith("libtorch was not found: the application references no backend package for TorchSharp.", message);
        Assert.Contains("dotnet add package TorchSharp-cpu --version 0.107.0", message);
        Assert.Contains($"dotnet add package libtorch-cpu-{rid} --version 2.10.0", message);
        Assert.Contains("/first/folder", message);
        Assert.Contains("/second/folder", message);
    }

    [Fact]
    public void On_a_system_without_a_backend_the_error_says_so()
    {
        var message = LibTorch.MissingMessage("linux-arm64", []);

        Assert.Contains("There is no CPU package for this system (linux-arm64)", message);
        Assert.DoesNotContain("dotnet add package", message);
    }
}
