#!/usr/bin/env dotnet
#:project ../src/ML.Rlhf/ML.Rlhf.csproj

// Talk to the servant in the terminal; an empty line ends it. His answers come as they are written, token by token.
//
//   dotnet run samples/chat.cs                  trains a servant first (seconds), unless servant.zip is there
//   dotnet run samples/chat.cs -- servant.zip   a model that fine-tune.cs, or any other, has saved
//
// He was taught one sentence, "bring me the red cup" (or another thing), and has no memory of what was said before; for conversations
// with a model that was trained on them, see model.ChatStreamingAsync and chat templates.
//
// It prints, among other lines, and ends with the last of these:
//   The servant listens. Ask: bring me the red cup
//   > here is the red cup, as always.
//   > well, here is the old clock, i suppose.
//   > chat answers=2

using Microsoft.ML;
using ML.Rlhf;

bool fast = args.Contains("--fast");
string file = args.FirstOrDefault(argument => !argument.StartsWith("--")) ?? "servant.zip";
string Data(string file) => Path.Combine((string)AppContext.GetData("EntryPointFileDirectoryPath")!, "data", file);
var ml = new MLContext(seed: 1);
var rlhf = ml.Rlhf();

var servant = File.Exists(file) ? rlhf.Models.Load<TextGenerationTransformer>(file) : Train();
int answers = 0;
Console.WriteLine("The servant listens. Ask: bring me the red cup");
while (Ask() is { Length: > 0 } request)
{
    await foreach (string piece in servant.GenerateStreamingAsync(request + "\n", servant.Sampling with { Seed = ++answers }))
        Console.Write(piece);
    Console.WriteLine();
}
Console.WriteLine($"chat answers={answers}");

static string? Ask()
{
    Console.Write("> ");
    return Console.ReadLine();
}

TextGenerationTransformer Train() => rlhf.Trainers.SupervisedFineTuning(
    rlhf.Trainers.Gpt(new GptOptions
    {
        Architecture = GptArchitecture.Nano with { VocabularySize = 384 },
        Steps = fast ? 150 : 500,
        WarmupSteps = 50,
        BatchSize = 16,
        LearningRate = 3e-3,
    }).Fit(ml.Data.LoadFromJsonLines<Document>(Data("corpus.jsonl"))),
    new SupervisedFineTuningOptions { Epochs = fast ? 1 : 3, LearningRate = 2e-3, Sampling = new SamplingOptions { MaxNewTokens = 32 } })
    .Fit(ml.Data.LoadFromJsonLines<Demonstration>(Data("demonstrations.jsonl")));
