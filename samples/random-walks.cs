#!/usr/bin/env dotnet
#:project ../src/ML.Rlhf/ML.Rlhf.csproj
#:package System.CommandLine

// Random walks, the classic test of PPO for language models (from trlX): a GPT that has only read aimless walks on a graph learns from a
// reward alone to walk to node "a" by the shortest path. It is small, its reward is exact, and everything that is wrong with an
// implementation shows.
//
//   dotnet run samples/random-walks.cs                                about 1 minute on 2 cores
//   dotnet run samples/random-walks.cs -- --seed 3 --algorithm grpo
//
// It ends with one plain line:
//   optimality seed=1 algorithm=ppo before=0.63 after=0.99 kl=1.6

using System.CommandLine;
using System.Globalization;
using Microsoft.ML;
using ML.Rlhf;

CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
var seedOption = new Option<int>("--seed") { Description = "Seed of the training.", DefaultValueFactory = _ => 1 };
var algorithmOption = new Option<string>("--algorithm") { Description = "What learns from the reward.", DefaultValueFactory = _ => "ppo" };
algorithmOption.AcceptOnlyFromAmong("ppo", "grpo");
var command = new RootCommand("Shortest paths, learned from a reward alone.") { seedOption, algorithmOption };
command.SetAction(arguments => RandomWalks(arguments.GetValue(seedOption), arguments.GetValue(algorithmOption)!));
return command.Parse(args).Invoke();

static void RandomWalks(int seed, string algorithm)
{
    var ml = new MLContext(seed);
    var rlhf = ml.Rlhf();
    var graph = new Graph(nodes: 21, edgeProbability: 0.1, longestPath: 10, seed: 1002);
    string[] walks = [.. graph.RandomWalks(1_000)];
    Console.WriteLine($"a graph of 21 nodes, {graph.EdgeCount} edges; a walk: {walks[0]}; mean optimality of the walks " +
        $"{walks.Average(graph.Optimality):F2}");

    // A GPT that has read the walks, and continues a walk from its first node.
    var gpt = rlhf.Trainers.Gpt(new GptOptions
    {
        Architecture = GptArchitecture.Micro with { ContextLength = 16 },
        Tokenizer = rlhf.Tokenizers.TrainCharacters(ml.Data.LoadFromEnumerable([new Document { Text = Graph.Names }])),
        Steps = 100,
        WarmupSteps = 10,
        BatchSize = 64,
    }).Fit(ml.Data.LoadFromEnumerable(walks.Select(walk => new Document { Text = walk })));
    var sft = rlhf.Trainers.SupervisedFineTuning(gpt, new SupervisedFineTuningOptions
    {
        Epochs = 10,
        LearningRate = 1e-3,
        Sampling = new SamplingOptions { MaxNewTokens = graph.LongestPath - 1, Seed = seed },
    }).Fit(ml.Data.LoadFromEnumerable(walks.Select(walk => new Demonstration { Prompt = walk[..1], Completion = walk[1..] })));

    // The reward: 1 for a shortest path to "a", 0 for none.
    float Reward(string prompt, string completion) => (float)graph.Optimality(prompt + completion);
    var starts = ml.Data.LoadFromEnumerable(graph.Starts.Select(start => new PromptOnly { Prompt = start }));
    var policy = algorithm == "grpo"
        ? rlhf.Trainers.Grpo(sft, Reward, new GrpoOptions
        {
            Episodes = 128 * 40,
            EpisodesPerUpdate = 128,
            GroupSize = 8,
            EpochsPerUpdate = 4,
            LearningRate = 3e-4,
            KlCoefficient = 0.01,
            MaxResponseTokens = graph.LongestPath - 1,
            Progress = new Curve(),
        }).Fit(starts)
        : rlhf.Trainers.Ppo(sft, Reward, new PpoOptions
        {
            Episodes = 128 * 50,
            EpisodesPerUpdate = 128,
            LearningRate = 2e-4,
            KlCoefficient = 0.01,
            ValueCoefficient = 1,
            UnfinishedScore = null, // a path that does not end has optimality 0 already
            MaxResponseTokens = graph.LongestPath - 1,
            Progress = new Curve(),
        }).Fit(starts);

    // Fifty paths from each node; each seed draws other ones.
    double Mean(TextGenerationTransformer model) => Enumerable.Range(0, 50).SelectMany(i => model
        .Generate(graph.Starts, model.Sampling with { Seed = 1_000 * seed + i })
        .Zip(graph.Starts, (completion, start) => graph.Optimality(start + completion))).Average();

    double kl = rlhf.EvaluatePolicy(policy, sft, starts).Kl;
    Console.WriteLine($"optimality seed={seed} algorithm={algorithm} before={Mean(sft):F2} after={Mean(policy):F2} kl={kl:F1}");
}

/// <summary>A directed graph whose nodes are letters; "a" is the goal.</summary>
sealed class Graph
{
    private readonly bool[,] _edges;
    private readonly int[] _shortest;
    private readonly Random _random;

    public Graph(int nodes, double edgeProbability, int longestPath, int seed)
    {
        _random = new Random(seed);
        LongestPath = longestPath;
        do
        {
            _edges = new bool[nodes, nodes];
            for (int from = 1; from < nodes; from++) // nothing leaves the goal
            {
                for (int to = 0; to < nodes; to++)
                    _edges[from, to] = from != to && _random.NextDouble() < edgeProbability;
            }
            _shortest = ShortestPaths(nodes);
        }
        while (_shortest.Any(length => length > longestPath)); // every node has a path that is short enough
        Starts = [.. Names[1..nodes].Select(name => name.ToString())];
    }

    public static string Names => "abcdefghijklmnopqrstu";

    public int LongestPath { get; }

    public IReadOnlyList<string> Starts { get; }

    public int EdgeCount => _edges.Cast<bool>().Count(edge => edge);

    /// <summary>Walks that take any edge, until they reach the goal or are as long as a path may be.</summary>
    public IEnumerable<string> RandomWalks(int count)
    {
        for (int i = 0; i < count; i++)
        {
            List<int> walk = [1 + _random.Next(Starts.Count)];
            while (walk[^1] != 0 && walk.Count < LongestPath)
            {
                int[] next = [.. Enumerable.Range(0, _edges.GetLength(1)).Where(to => _edges[walk[^1], to])];
                walk.Add(next[_random.Next(next.Length)]);
            }
            yield return string.Concat(walk.Select(node => Names[node]));
        }
    }

    /// <summary>1 for a shortest path to the goal, less for a longer one, 0 for one that misses it or takes an edge that is not there.</summary>
    public double Optimality(string path)
    {
        int[] nodes = [.. path.Select(name => Names.IndexOf(name))];
        int length = Array.IndexOf(nodes, 0) + 1;
        if (length == 0 || length > LongestPath || length < nodes.Length)
            return 0;
        if (nodes.Contains(-1) || nodes.Zip(nodes.Skip(1), (from, to) => _edges[from, to]).Contains(false))
            return 0;
        int best = _shortest[nodes[0]];
        return best == LongestPath ? 1 : 1 - (double)(length - best) / (LongestPath - best);
    }

    /// <summary>Nodes of the shortest path from each node to the goal, found backwards from there.</summary>
    private int[] ShortestPaths(int nodes)
    {
        int[] shortest = [1, .. Enumerable.Repeat(int.MaxValue, nodes - 1)];
        var queue = new Queue<int>([0]);
        while (queue.TryDequeue(out int to))
        {
            for (int from = 0; from < nodes; from++)
            {
                if (_edges[from, to] && shortest[from] == int.MaxValue)
                {
                    shortest[from] = shortest[to] + 1;
                    queue.Enqueue(from);
                }
            }
        }
        return shortest;
    }
}

/// <summary>Prints a point of the learning curve now and then.</summary>
sealed class Curve : IProgress<TrainingProgress>
{
    public void Report(TrainingProgress value)
    {
        if (value is PolicyProgress p && (p.Step == 1 || p.Step % 5 == 0))
            Console.WriteLine($"{p.Stage} {p.Step,3}/{p.TotalSteps}  optimality {p.Score:F3}  kl {p.Kl:F2}  entropy {p.Entropy:F2}");
    }
}
