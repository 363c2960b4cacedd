namespace ML.Rlhf.Torch.Training;

/// <summary>What .NET throws where a disk or a folder does not do what it should.</summary>
internal static class DiskErrors
{
    /// <summary>
    /// Whether an exception out of reading or writing files is the disk's. A file that outgrows a limit (of the file system, or of the
    /// process: <c>ulimit -f</c>) is an argument out of range to .NET, not an <see cref="IOException"/>.
    /// </summary>
    public static bool Is(Exception exception) =>
        exception is IOException or UnauthorizedAccessException or ArgumentOutOfRangeException { ParamName: "value" };

    /// <summary>Its message, to stand within a sentence.</summary>
    public static string Reason(this Exception exception) => exception is ArgumentOutOfRangeException
        ? "a file would be larger than the file system or a limit of the process allows"
        : exception.Message.TrimEnd('.');
}
