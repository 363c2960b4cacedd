#!/usr/bin/env dotnet
#:project ../src/ML.Rlhf/ML.Rlhf.csproj
#:package System.CommandLine

// Positive continuations, the first task of RLHF for language models (Ziegler et al. 2019): a small GPT that has read film reviews learns
// to go on with a review so that it sounds positive. The reward is a sentiment pipeline of stock ML.NET, which knows nothing of language
// models. A second one, another learner on other reviews, is the gold check: what pleases only the first one is exploitation.
//
//   dotnet run samples/positive-reviews.cs -- --data movie-reviews.zip           about 6 minutes on 2 cores
//   dotnet run samples/positive-reviews.cs -- --data movie-reviews.zip --fast    about 1 minute, smaller numbers
//
// The data is a folder or zip with text files in pos/ and neg/, as movie_reviews of nltk_data (CC BY 4.0). It ends with one plain line:
//   positive seed=1 before=0.59 after=0.87 delta=0.29 ci95=[0.27,0.30] gold=0.71 kl=6.2 prompts=400

using System.CommandLine;
using System.Globalization;
using System.IO.Compression;
using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;
using Microsoft.ML.Trainers;
using Microsoft.ML.Transforms.Text;
using ML.Rlhf;

CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
var dataOption = new Option<string>("--data") { Description = "Folder or zip with reviews in pos/ and neg/.", Required = true };
var seedOption = new Option<int>("--seed") { Description = "Seed of everything random.", DefaultValueFactory = _ => 1 };
var fastOption = new Option<bool>("--fast") { Description = "A shorter run." };
var command = new RootCommand("A GPT that learns to write positive reviews.") { dataOption, seedOption, fastOption };
command.SetAction(arguments =>
{
    var reviews = Review.Read(arguments.GetRequiredValue(dataOption));
    if (reviews.Length < 100)
        Console.Error.WriteLine($"--data has {reviews.Length} reviews. Pass a folder or zip with 100 or more text files in pos/ and neg/.");
    else
        PositiveReviews(reviews, arguments.GetValue(seedOption), arguments.GetValue(fastOption));
    return reviews.Length < 100 ? 1 : 0;
});
return command.Parse(args).Invoke();

static void PositiveReviews(Review[] reviews, int seed, bool fast)
{
    var ml = new MLContext(seed);
    ml.Log += (_, e) => Console.Write(e.Source.Contains("Trainer;") && e.Kind != ChannelMessageKind.Trace ? e.RawMessage + "\n" : "");
    var rlhf = ml.Rlhf();
    new Random(seed).Shuffle(reviews);
    Review[] held = reviews[..(reviews.Length / 5)], train = reviews[held.Length..];
    IDataView Passages(IEnumerable<Review> some) => ml.Data.LoadFromEnumerable(some.SelectMany(review => review.Passages()));
    IDataView Texts(IEnumerable<string> texts) => ml.Data.LoadFromEnumerable(texts.Select(text => new Document { Text = text }));

    // ---- The reward: stock ML.NET. It learns from passages as long as those that it will score, and not from whole reviews.
    var words = ml.Transforms.Text.FeaturizeText("Features", new TextFeaturizingEstimator.Options
    {
        CharFeatureExtractor = null,
        WordFeatureExtractor = new WordBagEstimator.Options { NgramLength = 1 },
        Norm = TextFeaturizingEstimator.NormFunction.None,
    }, "Text");
    var sdca = new SdcaLogisticRegressionBinaryTrainer.Options
        { L2Regularization = 1e-5f, MaximumNumberOfIterations = 10, NumberOfThreads = 1 };
    var sentiment = words.Append(ml.BinaryClassification.Trainers.SdcaLogisticRegression(sdca)).Fit(Passages(train[..(train.Length / 2)]));
    double[] Positive(IEnumerable<string> texts) =>
        [.. sentiment.Transform(Texts(texts)).GetColumn<float>("Probability").Select(p => (double)p)];

    // ---- The gold check: naive Bayes, on the other half. Its Score has the log-likelihood of "negative" and of "positive".
    var gold = words.Append(ml.MulticlassClassification.Trainers.NaiveBayes("Class")).Fit(Passages(train[(train.Length / 2)..]));
    double[] Gold(IEnumerable<string> texts) =>
        [.. gold.Transform(Texts(texts)).GetColumn<float[]>("Score").Select(s => 1 / (1 + Math.Exp(s[0] - s[1])))];
    var passages = ml.BinaryClassification.Evaluate(sentiment.Transform(Passages(held)));
    var wholes = ml.BinaryClassification.Evaluate(sentiment.Transform(ml.Data.LoadFromEnumerable(held)));
    double goldAccuracy = ml.MulticlassClassification.Evaluate(gold.Transform(Passages(held)), "Class").MicroAccuracy;
    Console.WriteLine($"held out: passages reward accuracy={passages.Accuracy:F3} auc={passages.AreaUnderRocCurve:F3}, " +
        $"gold accuracy={goldAccuracy:F3}; whole reviews reward auc={wholes.AreaUnderRocCurve:F3}");

    // ---- A GPT that has read the other reviews.
    var corpus = Texts(train.Select(r => r.Text));
    var gpt = rlhf.Trainers.Gpt(new GptOptions
    {
        Architecture = GptArchitecture.Micro with { ContextLength = 64 },
        Tokenizer = rlhf.Tokenizers.TrainByteLevelBpe(corpus, vocabularySize: 2048),
        Steps = fast ? 300 : 3_000,
        WarmupSteps = 50,
        BatchSize = 16,
        Sampling = new SamplingOptions { MaxNewTokens = 24, Temperature = 0.7f, Seed = seed }, // as Ziegler et al.
    }).Fit(corpus);

    // ---- PPO. The reward is the pipeline's Score, the log-odds, and not its Probability, which is flat where a text is clearly positive
    // or negative already. What a unit of it is worth depends on the pipeline, so β is steered to a divergence: 6 nats (Ziegler et al.).
    var policy = rlhf.Trainers.Ppo(gpt, rlhf.Rewards.FromTransformer(sentiment, "Score"), new PpoOptions
    {
        PromptColumnName = "Text",
        Episodes = 64 * (fast ? 15 : 60),
        LearningRate = 2e-4,
        KlCoefficient = 0.3,
        TargetKl = 6,
        KlHorizon = 1_000, // slower than the policy moves, or the two chase each other
        MaxResponseTokens = 24,
        Temperature = 0.7,
        UnfinishedScore = null, // passages end where they are cut
    }).Fit(Texts(train.SelectMany(r => r.Openings())));

    // ---- Evaluation: the first words of held-out reviews, the same for both models.
    string[] prompts = [.. held.SelectMany(r => r.Openings().Take(1))];
    IReadOnlyList<string> before = gpt.Generate(prompts), after = policy.Generate(prompts);
    double[] was = Positive(before), became = Positive(after), goldWas = Gold(before), goldBecame = Gold(after);
    for (int i = 0; i < 5; i++)
        Console.WriteLine($"  {prompts[i]} …\n    {was[i]:F2} gold {goldWas[i]:F2}  {before[i].ReplaceLineEndings("")}\n" +
            $"    {became[i]:F2} gold {goldBecame[i]:F2}  {after[i].ReplaceLineEndings("")}");
    var metrics = rlhf.EvaluatePolicy(policy, gpt, Texts(prompts), "Text");
    Console.WriteLine($"gold before={goldWas.Average():F2} after={goldBecame.Average():F2} {Difference(goldWas, goldBecame)}; " +
        $"win rate {WinRate(was, became):F2}, by gold {WinRate(goldWas, goldBecame):F2}; tokens {metrics.ResponseLength:F1}");
    Console.WriteLine($"positive seed={seed} before={was.Average():F2} after={became.Average():F2} {Difference(was, became)} " +
        $"gold={goldBecame.Average():F2} kl={metrics.Kl:F1} prompts={prompts.Length}");
}

static double WinRate(double[] before, double[] after) => before.Zip(after, (b, a) => a > b ? 1 : a == b ? 0.5 : 0).Average();

// Mean difference, prompt by prompt, and its 95 % confidence interval.
static string Difference(double[] before, double[] after)
{
    double[] differences = [.. before.Zip(after, (b, a) => a - b)];
    double mean = differences.Average(), variance = differences.Sum(d => (d - mean) * (d - mean)) / (differences.Length - 1);
    double margin = 1.96 * Math.Sqrt(variance / differences.Length);
    return $"delta={mean:F2} ci95=[{mean - margin:F2},{mean + margin:F2}]";
}

/// <summary>A review, or a passage of one; positive or not.</summary>
sealed record Review(string Text, bool Label)
{
    [KeyType(2)] // what multiclass learners want for a label
    public uint Class { get; init; } = Label ? 1u : 0u;

    /// <summary>Sixteen words each, about as long as 24 tokens.</summary>
    public IEnumerable<Review> Passages() => Text.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries).Chunk(16)
        .Select(words => new Review(string.Join(' ', words), Label));

    /// <summary>The first eight words of each sentence; a sentence is a line.</summary>
    public IEnumerable<string> Openings() => Text.Split('\n').Select(line => line.Split(' ', StringSplitOptions.RemoveEmptyEntries))
        .Where(words => words.Length >= 16).Select(words => string.Join(' ', words[..8]));

    public static Review[] Read(string path)
    {
        using var zip = File.Exists(path) ? ZipFile.OpenRead(path) : null;
        var zipped = zip?.Entries.Select(entry => (Name: entry.FullName, Text: new StreamReader(entry.Open()).ReadToEnd())) ?? [];
        var files = Directory.Exists(path) ? Directory.GetFiles(path, "*.txt", SearchOption.AllDirectories) : [];
        return [.. from text in zipped.Concat(files.Select(file => (Name: file.Replace('\\', '/'), Text: File.ReadAllText(file))))
                   where text.Name.EndsWith(".txt") && (text.Name.Contains("pos/") || text.Name.Contains("neg/"))
                   orderby text.Name
                   select new Review(text.Text, text.Name.Contains("pos/"))];
    }
}
