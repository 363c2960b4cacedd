using System.IO.Compression;
using System.Reflection;
using System.Security.Cryptography;
using System.Text;
using Microsoft.ML;
using Microsoft.ML.Data;
using ML.Rlhf.Bridge;
using ML.Rlhf.TestSupport;

namespace ML.Rlhf.Tests.Fuzz;

/// <summary>
/// ML.NET's model files with every component of this pack. The bytes of the file are damaged, or what is inside; whoever does that on
/// purpose writes the new checksum, too.
/// </summary>
internal sealed class ModelZipFuzz : FuzzFormat
{
    private readonly MLContext _ml = new(seed: 1);
    private readonly Dictionary<string, Entry[]> _models = [];
    private readonly string[] _names;
    private int _reads;

    /// <param name="Name">The entry's path.</param>
    /// <param name="Content">What is in it.</param>
    /// <param name="Pieces">What is in it as text, where it is JSON; the header where it is weights.</param>
    private sealed record Entry(string Name, byte[] Content, SplitText? Pieces)
    {
        public bool IsJson => Name.EndsWith(".json", StringComparison.Ordinal);
    }

    public ModelZipFuzz()
    {
        var data = _ml.Data.LoadFromEnumerable(Tiny.Demonstrations);
        IEstimator<ITransformer> lower = _ml.Transforms.Text.NormalizeText("Prompt");
        Add("chain", new TransformerChain<ITransformer>(lower.Fit(data), Tiny.Model, Tiny.Reward));
        Add("reward", Tiny.Reward);
        Add("encoder", Tiny.Encoder);
        Add("text-to-text", Tiny.TextToText);
        Add("best-of-n", _ml.Rlhf().Transforms.BestOfN(Tiny.Model, Tiny.Reward, n: 2));
        Add("tokens", _ml.Rlhf().Transforms.TokenizeText("Tokens", "Prompt", Tiny.Bpe).Fit(data));
        using (var chat = Tiny.Model.WithChatTemplate(_ml.Rlhf().ChatTemplates.HumanAssistant()))
            Add("chat", chat);
        using (var lora = _ml.Rlhf().Trainers.SupervisedFineTuning(
            Tiny.Model, new SupervisedFineTuningOptions { Lora = new LoraOptions { Rank = 2 }, Epochs = 1 }).Fit(data))
            Add("lora", lora);
        using (var lstm = _ml.Rlhf().Trainers.Lstm(new LstmOptions
        {
            Architecture = Tiny.Recurrent, Tokenizer = Tiny.Letters, Steps = 1, PromptColumnName = "Prompt",
        }).Fit(_ml.Data.LoadFromEnumerable(Tiny.Documents)))
            Add("lstm", lstm);
        _names = [.. _models.Keys];
    }

    private void Add(string name, ITransformer model)
    {
        using var stream = new MemoryStream();
        _ml.Model.Save(model, _ml.Data.CreateJsonLinesLoader<Demonstration>(), stream);
        using var zip = new ZipArchive(stream, ZipArchiveMode.Read);
        _models.Add(name, [.. zip.Entries.Select(entry =>
        {
            using var opened = entry.Open();
            using var content = new MemoryStream();
            opened.CopyTo(content);
            byte[] bytes = content.ToArray();
            return new Entry(entry.FullName, bytes, entry.FullName.EndsWith(".json", StringComparison.Ordinal)
                ? new SplitText(Encoding.UTF8.GetString(bytes))
                : entry.FullName.EndsWith(".safetensors", StringComparison.Ordinal) ? CheckpointDamage.Header(bytes) : null);
        })]);
    }

    public override FuzzInput Damage(Mutator mutator)
    {
        string name = _names[mutator.Next(_names.Length)];
        Entry[] entries = [.. _models[name]];
        int at = mutator.Next(entries.Length);
        var entry = entries[at];
        switch (mutator.Next(8))
        {
            case 0: // the file itself
                return new(name, mutator.Bytes(Zip(entries)));
            case 1: // an entry, whose checksum no longer fits
                entries[at] = entry with { Content = mutator.Bytes(entry.Content) };
                break;
            case 2: // one is missing, is called something else, or is another one
                entries = mutator.Next(3) switch
                {
                    0 => [.. entries[..at], .. entries[(at + 1)..]],
                    1 => [.. entries[..at], entry with { Name = Renamed(mutator, entry.Name) }, .. entries[(at + 1)..]],
                    _ => WithChecksum(entries, at, entries[mutator.Next(entries.Length)].Content),
                };
                break;
            default: // an entry, and its checksum
                byte[] content = entry.Pieces is null ? mutator.Bytes(entry.Content)
                    : entry.IsJson ? Encoding.UTF8.GetBytes(mutator.Next(20) == 0 ? "null" : mutator.Pieces(entry.Pieces))
                    : CheckpointDamage.Safetensors(mutator, entry.Content, entry.Pieces);
                entries = WithChecksum(entries, at, content);
                break;
        }
        return new(name, Zip(entries));
    }

    /// <summary>Two ways lead to a model: ML.NET's own, which wraps what components throw, and ours, which unwraps it.</summary>
    public override void Read(FuzzInput input)
    {
        if (++_reads % 2 == 0)
        {
            Write("model.zip", input.Content);
            Use(_ml.Rlhf().Models.Load<ITransformer>(Path.Combine(Folder, "model.zip")));
        }
        else
        {
            using var stream = new MemoryStream(input.Content);
            // Where one part of a chain is damaged, ML.NET leaves those before it to their finalizers, which are not waited for here.
            Use(ModelStore.LoadWhole(() => _ml.Model.Load(stream, out _)));
        }
    }

    /// <summary>
    /// ML.NET's loading throws <see cref="InvalidOperationException"/> and <see cref="TargetInvocationException"/> around what a component
    /// throws, which then is a refusal itself. Assemblies that the file names may be missing, or have names that are none.
    /// </summary>
    public override bool IsRefusal(Exception e) => e is FormatException or IOException or InvalidDataException
        || e is InvalidOperationException or TargetInvocationException && (e.InnerException is not { } inner || IsRefusal(inner))
        || e is ArgumentException && e.StackTrace!.Contains("EnsureLoaderAssemblyIsRegistered");

    private static void Use(ITransformer model)
    {
        try
        {
            (model as TextGenerationTransformer)?.Generate("cat");
        }
        catch (ArgumentException e) when (e.ParamName == "text" && e.Message.StartsWith("Character '"))
        {
            // The vocabulary is another one, to which a letter of the prompt is unknown.
        }
        finally
        {
            (model as IDisposable)?.Dispose();
        }
    }

    private static string Renamed(Mutator mutator, string name)
    {
        string other = Encoding.UTF8.GetString(mutator.Bytes(Encoding.UTF8.GetBytes(name)));
        return other.Length > 0 ? other : "?"; // no entry has no name
    }

    private static Entry[] WithChecksum(Entry[] entries, int at, byte[] content)
    {
        byte[] before = SHA256.HashData(entries[at].Content), after = SHA256.HashData(content);
        return [.. entries.Select((entry, i) =>
        {
            byte[] bytes = i == at ? content : entry.Content;
            int place = bytes.AsSpan().IndexOf(before);
            if (place >= 0)
            {
                bytes = [.. bytes];
                after.CopyTo(bytes, place);
            }
            return entry with { Content = bytes };
        })];
    }

    private static byte[] Zip(Entry[] entries)
    {
        using var stream = new MemoryStream();
        using (var zip = new ZipArchive(stream, ZipArchiveMode.Create, leaveOpen: true))
        {
            foreach (var entry in entries)
            {
                using var opened = zip.CreateEntry(entry.Name, CompressionLevel.NoCompression).Open();
                opened.Write(entry.Content);
            }
        }
        return stream.ToArray();
    }
}
