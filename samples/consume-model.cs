#!/usr/bin/env dotnet
#:project ../src/ML.Rlhf/ML.Rlhf.csproj

// A program that knows nothing of ML.Rlhf: it has the package, but no `using` and no call to it. ML.NET itself loads the model.
//
//   dotnet run samples/consume-model.cs -- policy.zip "bring me the red cup"    seconds; ppo.cs saves policy.zip
//
// It prints, among other lines, and ends with the last of these:
//   consume-model TextGenerationTransformer answer=of course, here is the red cup, with pleasure.

using Microsoft.ML;

if (args.Length < 2)
{
    Console.Error.WriteLine("Name a model file and a prompt: dotnet run samples/consume-model.cs -- policy.zip \"bring me the red cup\"");
    return 1;
}
var ml = new MLContext();
var model = ml.Model.Load(args[0], out _);
using var engine = ml.Model.CreatePredictionEngine<Question, Answer>(model);
string answer = engine.Predict(new Question { Prompt = args[1] + "\n" }).Completion;
Console.WriteLine($"consume-model {model.GetType().Name} answer={answer}");
return 0;

class Question
{
    public string Prompt { get; set; } = "";
}

class Answer
{
    public string Completion { get; set; } = "";
}
