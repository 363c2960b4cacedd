#!/usr/bin/env dotnet
#:project ../src/ML.Rlhf/ML.Rlhf.csproj
#:package Microsoft.ML.FastTree

// Features of an encoder for a stock trainer: a small BERT reads a corpus, and FastTree learns from its vectors which sentence is polite.
//
//   dotnet run samples/embeddings.cs              about half a minute on 2 cores
//   dotnet run samples/embeddings.cs -- --fast    a few seconds less, smaller numbers
//
// It prints, among other lines, and ends with the last of these:
//   MLM          600/600 loss 0.6388 30337 tokens/s left 0:00
//   embeddings saved=polite.zip accuracy=0.85 auc=0.96

using System.Globalization;
using Microsoft.ML.Data;
using Microsoft.ML;
using ML.Rlhf;

CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
bool fast = args.Contains("--fast");
string Data(string file) => Path.Combine((string)AppContext.GetData("EntryPointFileDirectoryPath")!, "data", file);
var ml = new MLContext(seed: 1);
var rlhf = ml.Rlhf();

// Masked language modelling on the texts, without labels (Devlin et al. 2019); then a text becomes the mean of its tokens.
var sentences = ml.Data.LoadFromTextFile<Sentence>(Data("sentiment.tsv"), hasHeader: true);
var encoder = rlhf.Trainers.MaskedLanguageModel(new MaskedLanguageModelOptions
{
    Architecture = EncoderArchitecture.Nano with { VocabularySize = 400 },
    Steps = fast ? 100 : 600,
    WarmupSteps = fast ? 10 : 60,
    BatchSize = 16,
    LearningRate = 2e-3,
    Progress = new ConsoleProgress(),
}).Fit(sentences);

// It is a transformer that adds a vector column, so any trainer of ML.NET goes on from there.
var split = ml.Data.TrainTestSplit(sentences, testFraction: 0.3, seed: 1);
var trees = ml.BinaryClassification.Trainers.FastTree(numberOfLeaves: 4, minimumExampleCountPerLeaf: 2);
var classifier = trees.Fit(encoder.Transform(split.TrainSet));
var metrics = ml.BinaryClassification.Evaluate(classifier.Transform(encoder.Transform(split.TestSet)));
ml.Model.Save(encoder.Append(classifier), sentences.Schema, "polite.zip");
Console.WriteLine($"embeddings saved=polite.zip accuracy={metrics.Accuracy:F2} auc={metrics.AreaUnderRocCurve:F2}");

class Sentence
{
    [LoadColumn(0)] public bool Label { get; set; }
    [LoadColumn(1)] public string Text { get; set; } = "";
}
