namespace ML.Rlhf;

/// <summary>Tells files that cannot be JSON Lines from their first bytes, to name what they are instead of their first bad byte.</summary>
internal static class FileKind
{
    private const string Unpack = "Unpack it, and load what comes out.";
    private const string Decrypt = "Decrypt it, and load what comes out.";
    private const string Convert = "Convert it to JSON Lines: one JSON object on each line, in UTF-8.";

    private static readonly (byte[] Beginning, string Problem)[] s_kinds =
    [
        ([0x1F, 0x8B], $"is compressed with gzip. {Unpack}"),
        ([0x28, 0xB5, 0x2F, 0xFD], $"is compressed with zstd. {Unpack}"),
        ([0xFD, .. "7zXZ"u8], $"is compressed with xz. {Unpack}"),
        ([.. "BZh"u8], $"is compressed with bzip2. {Unpack}"),
        ([.. "PK\x03\x04"u8], $"is a zip archive. {Unpack}"),
        ([.. "7z"u8, 0xBC, 0xAF], $"is a 7-Zip archive. {Unpack}"),
        ([.. "Salted__"u8], $"is encrypted by OpenSSL. {Decrypt}"),
        ([.. "-----BEGIN PGP MESSAGE-----"u8], $"is encrypted by PGP. {Decrypt}"),
        ([.. "age-encryption.org/"u8], $"is encrypted by age. {Decrypt}"),
        ([.. "$ANSIBLE_VAULT"u8], $"is encrypted by Ansible. {Decrypt}"),
        ([.. "PAR1"u8], $"is Parquet. {Convert}"),
        ([.. "ARROW1"u8], $"is Arrow. {Convert}"),
        ([0xFF, 0xFE], $"is text in UTF-16 or UTF-32. {Convert}"),
        ([0xFE, 0xFF], $"is text in UTF-16. {Convert}"),
        ([.. "{\0"u8], $"is text in UTF-16 or UTF-32. {Convert}"),
        ([.. "\0{"u8], $"is text in UTF-16. {Convert}"),
        ([.. "version https://git-lfs."u8], "is a pointer of Git LFS, not the data. Fetch the data with 'git lfs pull'."),
    ];

    /// <summary>What a file is that is no JSON Lines, with the fix; null where it may be.</summary>
    /// <param name="firstLine">What it begins with.</param>
    public static string? Problem(ReadOnlySpan<byte> firstLine)
    {
        foreach (var (beginning, problem) in s_kinds)
        {
            if (firstLine.StartsWith(beginning))
                return problem;
        }
        return null;
    }
}
