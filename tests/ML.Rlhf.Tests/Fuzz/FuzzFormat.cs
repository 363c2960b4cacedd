using ML.Rlhf.TestSupport;

namespace ML.Rlhf.Tests.Fuzz;

/// <summary>One damaged file.</summary>
/// <param name="Place">Which of the format's files it stands for, such as <c>llama2/tokenizer.json</c>; the others are whole.</param>
/// <param name="Content">What is in it.</param>
internal sealed record FuzzInput(string Place, byte[] Content);

/// <summary>A kind of file that comes from strangers: how it is damaged, how it is read, and how it may be refused.</summary>
internal abstract class FuzzFormat : IDisposable
{
    private readonly Dictionary<string, byte[]> _whole = [];

    /// <summary>Where files lie that are read from a folder.</summary>
    protected string Folder { get; } = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;

    /// <summary>The files that are damaged, by their places.</summary>
    protected IReadOnlyDictionary<string, byte[]> Whole => _whole;

    public static IReadOnlyList<string> Names { get; } =
        ["jsonl", "tokenizers", "safetensors", "configs", "model.zip", "jinja", "chat", "peft"];

    public static FuzzFormat Create(string name) => name switch
    {
        "jsonl" => new JsonLinesFuzz(),
        "tokenizers" => new TokenizerFuzz(),
        "safetensors" => new SafetensorsFuzz(),
        "configs" => new ConfigFuzz(),
        "model.zip" => new ModelZipFuzz(),
        "jinja" => new JinjaFuzz(),
        "chat" => new ChatTemplateFileFuzz(),
        "peft" => new AdapterFuzz(),
        _ => throw new ArgumentOutOfRangeException(nameof(name), name, "There is no such format."),
    };

    /// <summary>The next damaged file; the same for the same seed.</summary>
    public abstract FuzzInput Damage(Mutator mutator);

    /// <summary>Reads it and uses what was read; throws what the readers throw.</summary>
    public abstract void Read(FuzzInput input);

    /// <summary>Whether an exception is one by which this format is refused, as its documentation says.</summary>
    public abstract bool IsRefusal(Exception e);

    public virtual void Dispose() => Directory.Delete(Folder, recursive: true);

    /// <summary>Adds a file that may be damaged, and writes it into the folder.</summary>
    protected void Add(string place, byte[] content)
    {
        _whole.Add(place, content);
        Write(place, content);
    }

    /// <summary>Adds all files of a folder.</summary>
    protected void AddFolder(string place, string folder)
    {
        foreach (string file in Directory.GetFiles(folder))
            Add($"{place}/{Path.GetFileName(file)}", File.ReadAllBytes(file));
    }

    protected void Write(string place, byte[] content)
    {
        string path = Path.Combine(Folder, place);
        Directory.CreateDirectory(Path.GetDirectoryName(path)!);
        File.WriteAllBytes(path, content);
    }

    /// <summary>Reads while the damaged file stands in the place of the whole one.</summary>
    /// <param name="input">The damaged file.</param>
    /// <param name="read">Gets the folder of the file.</param>
    protected void WithDamaged(FuzzInput input, Action<string> read)
    {
        Write(input.Place, input.Content);
        try
        {
            read(Path.Combine(Folder, Path.GetDirectoryName(input.Place)!));
        }
        finally
        {
            if (_whole.TryGetValue(input.Place, out byte[]? content))
                Write(input.Place, content);
            else
                File.Delete(Path.Combine(Folder, input.Place));
        }
    }
}
