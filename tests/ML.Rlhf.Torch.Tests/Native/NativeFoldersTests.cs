using ML.Rlhf.Torch.Native;

namespace ML.Rlhf.Torch.Tests.Native;

public class NativeFoldersTests
{
    private static readonly string s_root = Path.GetFullPath("/");

    [Fact]
    public void What_the_host_lists_comes_first_and_no_folder_comes_twice()
    {
        var application = At("app") + Path.DirectorySeparatorChar;

        var folders = NativeFolders.Candidates($"{At("first")}{Path.PathSeparator}{application}", application, At("app"));

        Assert.Equal([At("first"), At("app"), At("app", "runtimes", NativeFolders.Rid, "native")], folders.Take(3));
        Assert.Equal(folders.Distinct(), folders);
    }

    [Fact]
    public void A_script_host_that_loads_TorchSharp_from_its_package_leads_to_the_packages_native_files()
    {
        var folders = NativeFolders.Candidates("", At("host"), At("packages", "torchsharp", "0.107.0", "lib", "net8.0"));

        var rid = NativeFolders.Rid;
        Assert.Contains(At("packages", "torchsharp", "0.107.0", "runtimes", rid, "native"), folders);
        Assert.Contains(At("packages", $"libtorch-cpu-{rid}", LibTorch.LibTorchVersion, "runtimes", rid, "native"), folders);
    }

    [Fact]
    public void A_single_file_application_has_its_own_folder()
    {
        var folders = NativeFolders.Candidates("", At("app"), torchSharp: null);

        Assert.Equal([At("app"), At("app", "runtimes", NativeFolders.Rid, "native")], folders);
    }

    [Fact]
    public void Find_takes_names_and_patterns()
    {
        Assert.Equal("TorchSharp.dll", Path.GetFileName(NativeFolders.Find("TorchSharp.dll")));
        Assert.Equal("TorchSharp.dll", Path.GetFileName(NativeFolders.Find("Torch*arp.d*")));
        Assert.Null(NativeFolders.Find("no-such-file.so"));
    }

    private static string At(params string[] path) => Path.Combine([s_root, .. path]);
}
