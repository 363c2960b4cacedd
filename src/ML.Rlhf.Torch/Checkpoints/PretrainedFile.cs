namespace ML.Rlhf.Torch.Checkpoints;

/// <summary>A file of a pretrained model's folder, which comes from a stranger.</summary>
internal static class PretrainedFile
{
    /// <summary>Whether something of this name is in its folder, be it a link that leads nowhere.</summary>
    public static bool Exists(string path) => File.Exists(path) || new FileInfo(path).LinkTarget is not null;

    /// <summary>
    /// Opens a file for reading. Links are followed, since a cache of downloaded models consists of them. What has no length is refused
    /// before it is opened: opening a pipe would wait for its writer, and a device never ends.
    /// </summary>
    /// <exception cref="FileNotFoundException">There is no such file.</exception>
    /// <exception cref="FormatException">It is empty.</exception>
    public static FileStream Open(string path)
    {
        var file = new FileInfo(path);
        bool isLink = file.LinkTarget is not null;
        if (isLink && file.ResolveLinkTarget(returnFinalTarget: true) is FileInfo target)
            file = target;
        if (!file.Exists)
            throw new FileNotFoundException(
                $"There is no file '{path}'{(isLink ? ", but only a link that leads nowhere" : "")}. " +
                "Check the path, or download or save the model again, as a whole.", path);
        if (file.Length == 0)
            throw new FormatException($"'{path}' is empty. Download or save the model again, as a whole.");
        return new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read | FileShare.Delete, bufferSize: 0);
    }
}
