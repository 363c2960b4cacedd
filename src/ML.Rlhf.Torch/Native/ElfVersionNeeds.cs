using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;

namespace ML.Rlhf.Torch.Native;

/// <summary>
/// The versions that a shared library asks of the libraries it depends on: section <c>.gnu.version_r</c> of an ELF file. Names are
/// those of the ELF specification and of the Linux Standard Base's chapter on symbol versioning.
/// </summary>
internal static class ElfVersionNeeds
{
    private const uint SHT_GNU_verneed = 0x6ffffffe;
    private const ushort VER_FLG_WEAK = 2;

    /// <summary>\x7F E L F, ELFCLASS64, ELFDATA2LSB, EV_CURRENT.</summary>
    private static ReadOnlySpan<byte> Elf64LittleEndian => [0x7F, (byte)'E', (byte)'L', (byte)'F', 2, 1, 1];

    /// <summary>
    /// Marks one version need as weak, in place: the dynamic linker then loads the library even where that version is missing.
    /// That is sound only if nothing in the library uses a symbol of that version.
    /// </summary>
    /// <param name="elf">A whole 64-bit little-endian ELF file. Two bytes of it change, or none.</param>
    /// <param name="version">The version's name, such as <c>GLIBCXX_3.4.32</c>.</param>
    /// <returns>Whether the file asks for that version at all.</returns>
    /// <exception cref="InvalidDataException">Not such a file, or a table of it points outside of it.</exception>
    public static bool Weaken(Span<byte> elf, string version)
    {
        if (FindVernaux(elf, version) is not { } offset)
            return false;

        var need = Read<Elf64_Vernaux>(elf, offset, "version need");
        need = need with { vna_flags = (ushort)(need.vna_flags | VER_FLG_WEAK) };
        MemoryMarshal.Write(elf[(int)offset..], need);
        return true;
    }

    /// <summary>The file offset of the <c>Elf64_Vernaux</c> entry that names the version, or null where none does.</summary>
    private static ulong? FindVernaux(ReadOnlySpan<byte> elf, string version)
    {
        if (!elf.StartsWith(Elf64LittleEndian))
            throw new InvalidDataException("Not a 64-bit little-endian ELF file: its first bytes say something else.");

        var header = Read<Elf64_Ehdr>(elf, 0, "file header");
        for (var i = 0; i < header.e_shnum; i++)
        {
            var section = Section(elf, header, i);
            if (section.sh_type == SHT_GNU_verneed)
                return FindVernaux(elf, section, strings: Section(elf, header, section.sh_link), version);
        }
        return null;
    }

    /// <summary>Walks the two-level list: a <c>Verneed</c> for each library, under it a <c>Vernaux</c> for each version.</summary>
    private static ulong? FindVernaux(ReadOnlySpan<byte> elf, Elf64_Shdr needs, Elf64_Shdr strings, string version)
    {
        var file = needs.sh_offset;
        for (var i = 0; i < needs.sh_info; i++)
        {
            var verneed = Read<Elf64_Verneed>(elf, file, "list of version needs");
            var aux = file + verneed.vn_aux;
            for (var j = 0; j < verneed.vn_cnt; j++)
            {
                var vernaux = Read<Elf64_Vernaux>(elf, aux, "version need");
                if (Name(elf, strings.sh_offset + vernaux.vna_name) == version)
                    return aux;
                aux += vernaux.vna_next;
            }
            file += verneed.vn_next;
        }
        return null;
    }

    private static Elf64_Shdr Section(ReadOnlySpan<byte> elf, Elf64_Ehdr header, long index) =>
        Read<Elf64_Shdr>(elf, header.e_shoff + (ulong)index * header.e_shentsize, "section header");

    /// <summary>The zero-terminated string at an offset. Version names are ASCII.</summary>
    private static string Name(ReadOnlySpan<byte> elf, ulong offset)
    {
        var tail = offset < (ulong)elf.Length ? elf[(int)offset..] : [];
        var length = tail.IndexOf((byte)0);
        return length >= 0 ? Encoding.ASCII.GetString(tail[..length]) : throw Truncated(elf, offset, "version name");
    }

    private static T Read<T>(ReadOnlySpan<byte> elf, ulong offset, string what) where T : unmanaged =>
        offset <= (ulong)elf.Length && (ulong)elf.Length - offset >= (ulong)Unsafe.SizeOf<T>()
            ? MemoryMarshal.Read<T>(elf[(int)offset..])
            : throw Truncated(elf, offset, what);

    private static InvalidDataException Truncated(ReadOnlySpan<byte> elf, ulong offset, string what) =>
        new($"Damaged or truncated ELF file: a {what} should be at byte {offset}, but the file has {elf.Length} bytes.");

    // The positional fields are in file order; every one is naturally aligned, so the layout in memory is the layout in the file.

    private readonly record struct Elf64_Ehdr(
        UInt128 e_ident, ushort e_type, ushort e_machine, uint e_version, ulong e_entry, ulong e_phoff, ulong e_shoff, uint e_flags,
        ushort e_ehsize, ushort e_phentsize, ushort e_phnum, ushort e_shentsize, ushort e_shnum, ushort e_shstrndx);

    private readonly record struct Elf64_Shdr(
        uint sh_name, uint sh_type, ulong sh_flags, ulong sh_addr, ulong sh_offset, ulong sh_size, uint sh_link, uint sh_info,
        ulong sh_addralign, ulong sh_entsize);

    private readonly record struct Elf64_Verneed(ushort vn_version, ushort vn_cnt, uint vn_file, uint vn_aux, uint vn_next);

    private readonly record struct Elf64_Vernaux(uint vna_hash, ushort vna_flags, ushort vna_other, uint vna_name, uint vna_next);
}
