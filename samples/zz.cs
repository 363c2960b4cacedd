#!/usr/bin/env dotnet
#:project ../src/ML.Rlhf/ML.Rlhf.csproj
using System.Diagnostics;
using Microsoft.ML;
using ML.Rlhf;
var ml = new MLContext(seed: 1);
ml.Log += (_, e) => { if (e.Kind != Microsoft.ML.Runtime.ChannelMessageKind.Trace) Console.WriteLine("  " + e.Message); };
var rlhf = ml.Rlhf();
var text = File.ReadAllText("/work/shared/data/tinyshakespeare.txt");
int cut = (int)(text.Length * 0.9);
var train = ml.Data.LoadFromEnumerable([new Document { Text = text[..cut] }]);
var val = ml.Data.LoadFromEnumerable([new Document { Text = text[cut..] }]);
var chars = rlhf.Tokenizers.TrainCharacters(ml.Data.LoadFromEnumerable([new Document { Text = text }]));
var sw = Stopwatch.StartNew();
var gpt = rlhf.Trainers.Gpt(new GptOptions { Architecture = GptArchitecture.Micro with { ContextLength = 64 }, Tokenizer = chars, ValidationData = val, Steps = int.Parse(args[0]) }).Fit(train);
Console.WriteLine($"{sw.Elapsed}  {gpt.Generate("ROMEO:")}");
