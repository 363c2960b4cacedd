#!/usr/bin/env dotnet
#:project ../src/ML.Rlhf/ML.Rlhf.csproj
#:package System.CommandLine

// What attention changed: an LSTM and a GPT of as many parameters read as many tokens of the same text, letter by letter, in the same
// batches, on the same schedule. Four tables come out, in Markdown:
//   1. the learning rates that were tried; each model takes its best, by a part of the text that nothing else looks at
//   2. the loss on held-out text while they learn
//   3. what distance does: the loss at each place of a window, and how much of a string of letters they can repeat
//   4. what reading one step at a time costs: tokens per second, with many texts at once and with one
// Nothing is tuned to make one of them win, and both are small and read little: see the numbers as they are.
//
//   dotnet run samples/lstm-against-gpt.cs -- --data tinyshakespeare.txt          about 4 minutes on 2 cores
//   dotnet run samples/lstm-against-gpt.cs -- --data tinyshakespeare.txt --fast   less than half of that
//
// It ends with one plain line:
//   lstm-against-gpt tokens=1024000 parameters=466176 lstm=1.74 gpt=2.13

using System.CommandLine;
using System.Globalization;
using Microsoft.ML;
using ML.Rlhf;
using ML.Rlhf.Torch.Modules;
using static TorchSharp.torch;

CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
var dataOption = new Option<FileInfo>("--data") { Description = "A text of 200,000 characters or more.", Required = true };
var seedOption = new Option<int>("--seed") { Description = "Seed of everything random.", DefaultValueFactory = _ => 1 };
var fastOption = new Option<bool>("--fast") { Description = "A tenth of the training." };
var command = new RootCommand("An LSTM against a GPT.") { dataOption.AcceptExistingOnly(), seedOption, fastOption };
command.SetAction(arguments =>
{
    string text = File.ReadAllText(arguments.GetRequiredValue(dataOption).FullName);
    new Comparison(text, arguments.GetValue(seedOption), arguments.GetValue(fastOption)).Show();
});
return command.Parse(args).Invoke();

sealed class Comparison
{
    private const int HeldOutCharacters = 20_000, BatchSize = 8;
    private static readonly double[] s_rates = [1e-3, 3e-3, 1e-2];

    private readonly RlhfCatalog _rlhf;
    private readonly MLContext _ml;
    private readonly int _seed;
    private readonly bool _fast;
    private readonly IDataView _train, _choosing, _heldOut;
    private readonly TextTokenizer _letters;
    private readonly string _heldOutText;
    private readonly GptArchitecture _gpt;
    private readonly LstmArchitecture _lstm;

    public Comparison(string text, int seed, bool fast)
    {
        (_ml, _seed, _fast) = (new MLContext(seed), seed, fast);
        _rlhf = _ml.Rlhf();
        if (text.Length < 10 * HeldOutCharacters)
            throw new ArgumentException($"The text has {text.Length} characters, but must have {10 * HeldOutCharacters} or more.");
        _heldOutText = text[^HeldOutCharacters..];
        _heldOut = Documents(_heldOutText);
        _choosing = Documents(text[^(2 * HeldOutCharacters)..^HeldOutCharacters]);
        _train = Documents(text[..^(2 * HeldOutCharacters)]);
        _letters = _rlhf.Tokenizers.TrainCharacters(Documents(text));
        _gpt = new GptArchitecture
        {
            Layers = 4, Heads = 4, Width = 96, ContextLength = 128, VocabularySize = _letters.VocabularySize,
        };
        _lstm = AsLarge(_gpt, layers: 2);
    }

    public void Show()
    {
        int steps = _fast ? 100 : 1_000;
        Console.WriteLine($"GPT: {_gpt.Layers} layers × {_gpt.Width}, {_gpt.ParameterCount} parameters; LSTM: {_lstm.Layers} layers × " +
            $"{_lstm.Width}, {_lstm.ParameterCount}. Windows of {_gpt.ContextLength} characters, {BatchSize} per step.");

        Console.WriteLine("\n| learning rate | LSTM | GPT |\n|---|---|---|");
        Run? lstm = null, gpt = null;
        foreach (double rate in s_rates)
        {
            var (l, g) = (Tried(_lstm, rate, steps), Tried(_gpt, rate, steps));
            Console.WriteLine($"| {rate} | {l.ChoosingLoss:F3} | {g.ChoosingLoss:F3} |");
            lstm = l.ChoosingLoss < (lstm?.ChoosingLoss ?? double.PositiveInfinity) ? l : lstm;
            gpt = g.ChoosingLoss < (gpt?.ChoosingLoss ?? double.PositiveInfinity) ? g : gpt;
        }

        Console.WriteLine($"\n| tokens read | LSTM, {lstm!.Rate} | GPT, {gpt!.Rate} |\n|---|---|---|");
        foreach (var (l, g) in lstm.Losses.Zip(gpt.Losses))
            Console.WriteLine($"| {l.Step * BatchSize * _gpt.ContextLength} | {l.Loss:F3} | {g.Loss:F3} |");

        ShowDistance(lstm.Model, gpt.Model);
        ShowCopies(lstm.Rate, gpt.Rate);
        ShowSpeed();
        Console.WriteLine($"\nlstm-against-gpt tokens={steps * BatchSize * _gpt.ContextLength} parameters={_gpt.ParameterCount} " +
            $"lstm={lstm.Losses[^1].Loss:F2} gpt={gpt.Losses[^1].Loss:F2}");
    }

    private sealed record Run(double Rate, TextGenerationTransformer Model, List<(int Step, double Loss)> Losses, double ChoosingLoss);

    private Run Tried(LanguageModelArchitecture shape, double rate, int steps)
    {
        var (model, losses, _) = Train(shape, rate, steps, _heldOut, steps / 10);
        return new Run(rate, model, losses, _rlhf.EvaluateLanguageModel(model, _choosing).Loss);
    }

    /// <summary>The held-out loss of the places of a window: what more to look back on is worth.</summary>
    private void ShowDistance(TextGenerationTransformer lstm, TextGenerationTransformer gpt)
    {
        double[] l = LossByPlace(lstm), g = LossByPlace(gpt);
        Console.WriteLine("\n| characters to look back on | LSTM | GPT |\n|---|---|---|");
        for (int from = 1; from < _gpt.ContextLength; from *= 2)
        {
            Range places = from..(2 * from < _gpt.ContextLength ? 2 * from : l.Length);
            Console.WriteLine($"| {from} to {places.End.Value - 1} | {l[places].Average():F3} | {g[places].Average():F3} |");
        }
    }

    private double[] LossByPlace(TextGenerationTransformer model)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        var network = (CausalLanguageModel)model.Module;
        long context = network.Architecture.ContextLength;
        var tokens = tensor(_letters.Encode(_heldOutText).Select(token => (long)token).ToArray());
        var windows = tokens.narrow(0, 0, tokens.shape[0] / (context + 1) * (context + 1)).view(-1, context + 1);   // (B, T + 1)
        var logits = network.Logits(network.Hidden(windows.narrow(1, 0, context)));                                // (B, T, V)
        var losses = -logits.log_softmax(-1).gather(2, windows.narrow(1, 1, context).unsqueeze(-1)).squeeze(-1);    // (B, T)
        return [0, .. losses.mean([0]).data<float>().Select(loss => (double)loss)]; // the first loss has one character to look back on
    }

    /// <summary>Strings to repeat: each letter of the answer was shown as many letters ago as the string is long.</summary>
    private void ShowCopies(double lstmRate, double gptRate)
    {
        var small = new GptArchitecture { Layers = 2, Heads = 2, Width = 64, ContextLength = 40, VocabularySize = 17 };
        var lstm = AsLarge(small, layers: 1);
        Console.WriteLine($"\n| letters to repeat | LSTM of {lstm.ParameterCount} | GPT of {small.ParameterCount} |\n|---|---|---|");
        foreach (int length in (int[])[2, 4, 8, 16])
            Console.WriteLine($"| {length} | {Copied(lstm, lstmRate, length):P0} | {Copied(small, gptRate, length):P0} |");
    }

    private double Copied(LanguageModelArchitecture shape, double rate, int length)
    {
        const string Alphabet = "abcdefghijklmnop";
        var random = new Random(_seed);
        string[] Strings(int count) => [.. Enumerable.Range(0, count).Select(_ => new string(random.GetItems<char>(Alphabet, length)))];
        int rows = 64 * (_fast ? 30 : 400);
        var letters = _rlhf.Tokenizers.TrainCharacters(Documents(Alphabet));
        using var nothing = Train(shape, 1e-9, steps: 1, heldOut: null, evaluateEvery: 1, letters).Model;
        using var model = _rlhf.Trainers.SupervisedFineTuning(nothing, new SupervisedFineTuningOptions
        {
            Epochs = 1, BatchSize = 64, LearningRate = rate, WarmupSteps = 20, Sampling = new() { Temperature = 0, MaxNewTokens = length },
        }).Fit(_ml.Data.LoadFromEnumerable(Strings(rows).Select(s => new Demonstration { Prompt = s, Completion = s })));
        string[] asked = Strings(200);
        return asked.Zip(model.Generate(asked), (s, answer) => s.Zip(answer).Count(pair => pair.First == pair.Second)).Sum()
            / (double)(asked.Length * length);
    }

    /// <summary>An LSTM takes a window's tokens one after another and is only as busy as there are texts; a GPT takes them at once.</summary>
    private void ShowSpeed()
    {
        Console.WriteLine("\n| texts at once | characters each | LSTM, tokens/s | GPT, tokens/s | LSTM / GPT |\n|---|---|---|---|---|");
        foreach (var (batch, window) in new[] { (16, 64), (16, 256), (1, 64), (1, 256) })
        {
            int steps = Math.Max(5, 30_000 / (batch * window));
            double Speed(LanguageModelArchitecture shape) =>
                Train(shape with { ContextLength = window }, 1e-3, steps, heldOut: null, steps, letters: null, batch).TokensPerSecond;
            double[] l = new double[3], g = new double[3];
            for (int i = 0; i < 3; i++)
                (l[i], g[i]) = (Speed(_lstm), Speed(_gpt)); // in turn, and the best: others may use this machine
            Console.WriteLine($"| {batch} | {window} | {l.Max():F0} | {g.Max():F0} | {l.Max() / g.Max():F2} |");
        }
    }

    private (TextGenerationTransformer Model, List<(int Step, double Loss)> Losses, double TokensPerSecond) Train(
        LanguageModelArchitecture shape, double rate, int steps, IDataView? heldOut, int evaluateEvery, TextTokenizer? letters = null,
        int batchSize = BatchSize)
    {
        var losses = new List<(int, double)>();
        double speed = 0;
        var begun = TimeSpan.Zero;
        var progress = new Report(p =>
        {
            begun = p.Step == 1 ? p.Elapsed : begun; // the first step comes after reading the corpus
            speed = (p.Step - 1) * batchSize * shape.ContextLength / (p.Elapsed - begun).TotalSeconds;
            if (p.ValidationLoss is { } loss)
                losses.Add((p.Step, loss));
        });
        int warmup = Math.Min(100, steps / 10);
        PretrainingOptions options = shape is LstmArchitecture lstm
            ? new LstmOptions { Architecture = lstm }
            : new GptOptions { Architecture = shape };
        options = options with
        {
            Tokenizer = letters ?? _letters, Steps = steps, BatchSize = batchSize, LearningRate = rate, WarmupSteps = warmup,
            ValidationData = heldOut, EvaluateEvery = evaluateEvery, Progress = progress, Seed = _seed, PromptColumnName = "Prompt",
        };
        var corpus = letters is null ? _train : Documents("abcdefghijklmnop");
        var model = options is LstmOptions l ? _rlhf.Trainers.Lstm(l).Fit(corpus) : _rlhf.Trainers.Gpt((GptOptions)options).Fit(corpus);
        return (model, losses, speed);
    }

    /// <summary>The LSTM of so many layers that comes nearest to a GPT's number of parameters.</summary>
    private static LstmArchitecture AsLarge(GptArchitecture gpt, int layers) => Enumerable.Range(16, 2_000)
        .Select(width => new LstmArchitecture
        {
            Layers = layers, Width = width, ContextLength = gpt.ContextLength, VocabularySize = gpt.VocabularySize,
        })
        .MinBy(lstm => Math.Abs(lstm.ParameterCount - gpt.ParameterCount))!;

    private IDataView Documents(string text) => _ml.Data.LoadFromEnumerable([new Document { Text = text }]);
}

sealed class Report(Action<TrainingProgress> report) : IProgress<TrainingProgress>
{
    void IProgress<TrainingProgress>.Report(TrainingProgress value) => report(value);
}
