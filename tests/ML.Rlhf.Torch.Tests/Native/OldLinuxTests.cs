using ML.Rlhf.Torch.Native;

namespace ML.Rlhf.Torch.Tests.Native;

public sealed class OldLinuxTests : IDisposable
{
    private static readonly byte[] s_library = [1, 2, 3, 4];

    private readonly string _folder = Directory.CreateTempSubdirectory("ml-rlhf-tests-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void The_library_is_placed_under_its_own_name_in_a_folder_named_by_its_content()
    {
        var path = OldLinux.Place(s_library, _folder);

        // printf '\1\2\3\4' | sha256sum
        Assert.Equal(Path.Combine(_folder, "9f64a747e1b97f13", "libLibTorchSharp.so"), path);
        Assert.Equal(s_library, File.ReadAllBytes(path));
        Assert.NotEqual(path, OldLinux.Place([5, 6], _folder));
    }

    [Fact]
    public void A_second_call_reuses_the_file()
    {
        var path = OldLinux.Place(s_library, _folder);
        var longAgo = new DateTime(2001, 2, 3, 0, 0, 0, DateTimeKind.Utc);
        File.SetLastWriteTimeUtc(path, longAgo);

        Assert.Equal(path, OldLinux.Place(s_library, _folder));
        Assert.Equal(longAgo, File.GetLastWriteTimeUtc(path));
    }

    [Theory]
    [InlineData(new byte[] { 1, 2 })] // cut off
    [InlineData(new byte[] { 1, 2, 3, 9 })] // same size
    public void A_damaged_file_is_replaced(byte[] damaged)
    {
        var path = OldLinux.Place(s_library, _folder);
        File.WriteAllBytes(path, damaged);

        Assert.Equal(path, OldLinux.Place(s_library, _folder));
        Assert.Equal(s_library, File.ReadAllBytes(path));
    }

    [Fact]
    public void Placing_at_the_same_time_leaves_one_whole_file_and_nothing_else()
    {
        Parallel.For(0, 50, _ => Assert.Equal(s_library, File.ReadAllBytes(OldLinux.Place(s_library, _folder))));

        Assert.Single(Directory.GetFiles(_folder, "*", SearchOption.AllDirectories));
    }

    [Fact]
    public void A_folder_that_cannot_be_made_is_an_IOException()
    {
        var file = Path.Combine(_folder, "file");
        File.WriteAllBytes(file, []);

        Assert.ThrowsAny<IOException>(() => OldLinux.Place(s_library, Path.Combine(file, "folder")));
    }

    [Theory]
    [InlineData("/xdg", "/home/me", "/xdg/ml-rlhf")]
    [InlineData(null, "/home/me", "/home/me/.cache/ml-rlhf")]
    [InlineData("relative", "/home/me", "/home/me/.cache/ml-rlhf")]
    [InlineData(null, "", null)]
    public void The_cache_follows_the_XDG_specification(string? xdgCacheHome, string userProfile, string? expected) =>
        Assert.Equal(expected, OldLinux.CacheFolder(xdgCacheHome, userProfile)?.Replace('\\', '/'));
}
