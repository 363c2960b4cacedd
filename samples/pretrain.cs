#!/usr/bin/env dotnet
#:project ../src/ML.Rlhf/ML.Rlhf.csproj

// Pretraining: a GPT that has read one text of yours, and goes on with it. Without a file it reads this sample's toy world.
//
//   dotnet run samples/pretrain.cs -- my-text.txt      about 1 minute on 2 cores for a text of any length
//   dotnet run samples/pretrain.cs -- --fast           seconds, to see whether everything works
//
// It prints, among other lines, and ends with the last of these:
//   GPT          1000/1000 loss 0.1818 validation 0.2087 20372 tokens/s left 0:00
//   bring me the big basket
//   of course, here is the big spoon, with pleasure.
//   pretrain saved=gpt.zip loss=0.21 bits-per-character=0.09

using System.Globalization;
using Microsoft.ML;
using ML.Rlhf;

CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
bool fast = args.Contains("--fast");
string? file = args.FirstOrDefault(argument => !argument.StartsWith("--"));
string Data(string file) => Path.Combine((string)AppContext.GetData("EntryPointFileDirectoryPath")!, "data", file);
var ml = new MLContext(seed: 1);
var rlhf = ml.Rlhf();

// Each line is a document. The last twentieth is held out.
string[] lines = file is null
    ? [.. ml.Data.CreateEnumerable<Document>(ml.Data.LoadFromJsonLines<Document>(Data("corpus.jsonl")), reuseRowObject: false).Select(d => d.Text)]
    : [.. File.ReadLines(file).Where(line => line.Length > 0)];
if (lines.Length < 100)
{
    Console.Error.WriteLine($"{file} has {lines.Length} lines that are not empty, but 100 are needed. Choose a longer text.");
    return 1;
}
IDataView Documents(string[] texts) => ml.Data.LoadFromEnumerable(texts.Select(text => new Document { Text = text }));
var (train, heldOut) = (Documents(lines[..^(lines.Length / 20)]), Documents(lines[^(lines.Length / 20)..]));

var gpt = rlhf.Trainers.Gpt(new GptOptions
{
    Architecture = GptArchitecture.Micro with { VocabularySize = file is null ? 384 : 1024 }, // bytes, and the commonest pieces of words
    Steps = fast ? 60 : 1000,
    WarmupSteps = fast ? 10 : 100,
    BatchSize = 16,
    EvaluateEvery = fast ? 30 : 250,
    ValidationData = heldOut,
    Progress = new ConsoleProgress(),
}).Fit(train);

string begin = lines[^1][..(lines[^1].Length / 3)];
Console.WriteLine(begin + gpt.Generate(begin, new SamplingOptions { MaxNewTokens = 60, Temperature = 0.7f }));
ml.Model.Save(gpt, train.Schema, "gpt.zip");
var metrics = rlhf.EvaluateLanguageModel(gpt, heldOut);
Console.WriteLine($"pretrain saved=gpt.zip loss={metrics.Loss:F2} bits-per-character={metrics.BitsPerCharacter:F2}");
return 0;
