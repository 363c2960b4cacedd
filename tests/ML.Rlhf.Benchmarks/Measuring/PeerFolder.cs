namespace ML.Rlhf.Benchmarks.Measuring;

/// <summary>A folder with a whole Debian system in which PyTorch and transformers are installed.</summary>
internal sealed class PeerFolder
{
    private readonly string _root;

    /// <param name="root">The folder.</param>
    /// <param name="clearBlas"><see cref="ClearBlas"/>.</param>
    /// <exception cref="DirectoryNotFoundException">There is no Python in the folder.</exception>
    public PeerFolder(string root, bool clearBlas)
    {
        (_root, ClearBlas) = (Path.GetFullPath(root), clearBlas);
        if (!Directory.Exists(Path.Combine(_root, "usr", "lib", "python3")))
            throw new DirectoryNotFoundException(
                $"{_root} is no peer's folder: it has no usr/lib/python3. Make one by debootstrap, with python3-torch, " +
                "python3-transformers and libopenblas0-openmp; tests/ML.Rlhf.Benchmarks/RESULTS.md says how.");
        foreach (string name in new[] { "proc", "sys", "dev" })
        {
            string folder = Path.Combine(_root, name);
            if (!File.ReadLines("/proc/mounts").Any(line => line.Split(' ')[1] == folder))
                Child.Run("mount", ["--bind", "/" + name, folder]);
        }
    }

    /// <summary>Whether <see cref="Child.BlasSettings"/> are not for the peer.</summary>
    public bool ClearBlas { get; }

    /// <summary>Runs one of the scripts beside this program, which needs root's rights.</summary>
    public Measurement Run(string script, string[] arguments)
    {
        // A name of its own: two runs of this program do not write each other's file.
        string name = $"/tmp/{Guid.NewGuid():N}-{script}", copy = _root + name;
        File.Copy(Path.Combine(AppContext.BaseDirectory, "Peer", script), copy);
        try
        {
            return Measurement.Parse("peer", Child.Run("chroot", [_root, "python3", name, .. arguments], ClearBlas));
        }
        finally
        {
            File.Delete(copy);
        }
    }
}
