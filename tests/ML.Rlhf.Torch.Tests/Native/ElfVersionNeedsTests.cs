using ML.Rlhf.Torch.Native;

namespace ML.Rlhf.Torch.Tests.Native;

public class ElfVersionNeedsTests
{
    /// <summary>
    /// <c>readelf -V</c> of TorchSharp 0.107.0's file: .gnu.version_r at offset 0x3f8f0, "0x0140: Name: GLIBCXX_3.4.32"; vna_flags is at
    /// byte 4 of an entry.
    /// </summary>
    private const int OffsetOfFlags = 0x3f8f0 + 0x140 + 4;

    [Fact]
    public void Weakening_the_shipped_library_changes_only_that_needs_flags_to_VER_FLG_WEAK()
    {
        var shipped = Shipped();
        var patched = shipped.ToArray();

        Assert.True(ElfVersionNeeds.Weaken(patched, "GLIBCXX_3.4.32"));

        Assert.Equal([2, 0], patched[OffsetOfFlags..(OffsetOfFlags + 2)]);
        var elsewhere = Enumerable.Range(0, shipped.Length).Where(i => i is not (OffsetOfFlags or OffsetOfFlags + 1));
        Assert.DoesNotContain(elsewhere, i => patched[i] != shipped[i]);
    }

    [Fact]
    public void Weakening_twice_is_weakening_once()
    {
        var once = Shipped();
        ElfVersionNeeds.Weaken(once, "GLIBCXX_3.4.32");
        var twice = once.ToArray();

        Assert.True(ElfVersionNeeds.Weaken(twice, "GLIBCXX_3.4.32"));
        Assert.Equal(once, twice);
    }

    [Theory]
    [InlineData("GLIBCXX_9.9.99")]
    [InlineData("GLIBCXX_3.4.3")] // only the beginning of a name that is there
    [InlineData("")]
    public void A_version_that_the_library_does_not_ask_for_changes_nothing(string version)
    {
        var shipped = Shipped();
        var patched = shipped.ToArray();

        Assert.False(ElfVersionNeeds.Weaken(patched, version));
        Assert.Equal(shipped, patched);
    }

    [Theory]
    [InlineData(0, 0x00)] // no magic number
    [InlineData(4, 1)] // ELFCLASS32
    [InlineData(5, 2)] // ELFDATA2MSB
    public void Anything_but_a_64_bit_little_endian_ELF_file_is_refused(int index, byte value)
    {
        var library = Shipped();
        library[index] = value;

        var error = Assert.Throws<InvalidDataException>(() => ElfVersionNeeds.Weaken(library, "GLIBCXX_3.4.32"));
        Assert.StartsWith("Not a 64-bit little-endian ELF file", error.Message);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(6)]
    public void A_file_shorter_than_the_identification_is_refused(int length) =>
        Assert.Throws<InvalidDataException>(() => ElfVersionNeeds.Weaken(Shipped().AsSpan(0, length), "GLIBCXX_3.4.32"));

    [Theory]
    [InlineData(7)] // within the file header
    [InlineData(63)]
    [InlineData(64)] // the section headers, at the file's end, are gone
    [InlineData(1_000_000)]
    [InlineData(2_390_000)]
    public void A_truncated_file_says_what_is_missing_and_where(int length)
    {
        var error = Assert.Throws<InvalidDataException>(() => ElfVersionNeeds.Weaken(Shipped().AsSpan(0, length), "GLIBCXX_3.4.32"));
        Assert.Matches($"^Damaged or truncated ELF file: a .* should be at byte \\d+, but the file has {length} bytes", error.Message);
    }

    [Fact]
    public void Damaged_tables_are_an_error_or_a_no_but_never_a_read_outside_of_the_file()
    {
        var random = new Random(1);
        var shipped = Shipped();
        var (header, needs) = (0..64, OffsetOfFlags - 0x144);
        for (var round = 0; round < 200; round++)
        {
            var damaged = shipped.ToArray();
            damaged[random.Next(7, header.End.Value)] = (byte)random.Next(256);
            damaged[needs + random.Next(0x200)] = (byte)random.Next(256);

            var error = Record.Exception(() => ElfVersionNeeds.Weaken(damaged, "GLIBCXX_3.4.32"));

            Assert.True(error is null or InvalidDataException, $"round {round}: {error}");
        }
    }

    /// <summary>A fresh copy of the bytes of TorchSharp's Linux library, which is in the output on every system.</summary>
    private static byte[] Shipped() =>
        File.ReadAllBytes(Path.Combine(AppContext.BaseDirectory, "runtimes", "linux-x64", "native", "libLibTorchSharp.so"));
}
