// Trains one model, as an application would, so that a test can kill it: `ML.Rlhf.Survivor STAGE [FOLDER [FROM]]`. With a folder, it
// writes checkpoints there, and goes on from what it finds, or from that one checkpoint. Prints "ready" and "trained" where training
// begins and ends, the warnings between, "weights HASH" of the model, and "loaded HASH" of what ML.NET reads back from its file.
using System.IO.Compression;
using System.Security.Cryptography;
using Microsoft.ML;
using Microsoft.ML.Runtime;
using ML.Rlhf;
using ML.Rlhf.Survivor;

var ml = new MLContext(seed: 1);
ml.Log += (_, e) =>
{
    if (e.Kind >= ChannelMessageKind.Warning)
        Console.WriteLine(e.Message);
};
var (trainer, data) = Stages.Create(ml, args[0], args.ElementAtOrDefault(1), args.ElementAtOrDefault(2));
Console.WriteLine("ready");
var model = trainer.Fit(data);
Console.WriteLine("trained");

using var file = new MemoryStream();
ml.Model.Save(model, data.Schema, file);
Console.WriteLine($"weights {Hash(file)}");
var loaded = ml.Model.Load(file, out _);
using var again = new MemoryStream();
ml.Model.Save(loaded, data.Schema, again);
Console.WriteLine($"loaded {Hash(again)}");

// Of all that the file holds, in the order of the names: the archive itself has times in it.
static string Hash(Stream zip)
{
    using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
    using var archive = new ZipArchive(zip, ZipArchiveMode.Read, leaveOpen: true);
    foreach (var entry in archive.Entries.OrderBy(e => e.FullName, StringComparer.Ordinal))
    {
        using var content = entry.Open();
        using var bytes = new MemoryStream();
        content.CopyTo(bytes);
        hash.AppendData(System.Text.Encoding.UTF8.GetBytes(entry.FullName));
        hash.AppendData(bytes.ToArray());
    }
    zip.Position = 0;
    return Convert.ToHexStringLower(hash.GetHashAndReset());
}
