#!/usr/bin/env dotnet
#:project ../src/ML.Rlhf/ML.Rlhf.csproj
#:package System.CommandLine

// Does a model from a Hugging Face folder compute here what it computes in transformers? The folder has the model (config.json,
// model.safetensors or its shards) and what transformers says about it: expected.json (architecture, input_ids, attention_mask, labels,
// grad_norms_all, greedy) and expected.safetensors (logits). tests/ML.Rlhf.Torch.Tests/Fixtures/models has ten such folders, and its README says what each
// entry is; entries that are missing are not compared, and without expected.json the model is only loaded. To make one for a model of your own, run it in transformers in float32 with
// attn_implementation="eager", and write down what it gives.
//
//   dotnet run samples/verify-import.cs FOLDER      seconds
//
// It ends with one plain line, and with exit code 1 where logits differ by more than 1e-4 or gradients by more than 1e-4 of their norm:
//   gpt2 logits max_abs_diff=2.9e-6 greedy_equal=true grad_max_rel_diff=2e-6

using System.CommandLine;
using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using ML.Rlhf.Torch.Checkpoints;
using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
var folderArgument = new Argument<DirectoryInfo>("folder") { Description = "The model, with expected.json and expected.safetensors." };
var command = new RootCommand("Compares an imported model with transformers.") { folderArgument };
command.SetAction(arguments => Verify(arguments.GetValue(folderArgument)!.FullName));
return command.Parse(args).Invoke();

static int Verify(string folder)
{
    ML.Rlhf.Torch.Native.LibTorch.EnsureLoaded();
    string name = Path.GetFileName(Path.TrimEndingDirectorySeparator(folder));
    string expectedFile = Path.Combine(folder, "expected.json");
    if (!File.Exists(expectedFile))
    {
        Console.WriteLine($"{name} loaded {Load(folder, Pretrained.LanguageModel).Architecture}");
        return 0;
    }
    var expected = JsonDocument.Parse(File.ReadAllText(expectedFile)).RootElement;
    var tensors = Pretrained.Tensors(Path.Combine(folder, "expected.safetensors"));
    string kind = expected.GetProperty("architecture").GetString()!;
    return kind.EndsWith("ForSequenceClassification")
        ? VerifyRewardModel(name, folder, expected)
        : kind.EndsWith("ForMaskedLM")
        ? VerifyEncoder(name, folder, expected, tensors)
        : VerifyLanguageModel(name, folder, expected, tensors);
}

// Loads a model and says what it took: memory should grow by its weights, and not by a second copy of them.
static T Load<T>(string folder, Func<string, T> load) where T : nn.Module
{
    using var process = Process.GetCurrentProcess();
    long before = process.WorkingSet64;
    var clock = Stopwatch.StartNew();
    var model = load(folder);
    process.Refresh();
    long parameters = model.parameters().Sum(p => p.numel());
    Console.WriteLine($"{parameters} parameters in {clock.Elapsed.TotalSeconds:F1} s; at its peak, resident memory had grown by " +
        $"{(process.PeakWorkingSet64 - before) / (4.0 * parameters):F2} times their size");
    return model;
}

static int VerifyLanguageModel(string name, string folder, JsonElement expected, IReadOnlyDictionary<string, Tensor> tensors)
{
    var model = Load(folder, Pretrained.LanguageModel);

    // Logits of left-padded rows: positions count real tokens, and padding is hidden from everything but itself.
    var ids = Matrix(expected.GetProperty("input_ids"));                                       // (B, T)
    var real = expected.TryGetProperty("attention_mask", out var mask) ? Matrix(mask) : ones_like(ids);
    var positions = (real.cumsum(1) - 1).clamp(min: 0);
    var logits = model.Logits(model.Hidden(ids, positions, Hiding(real)));                     // (B, T, V)
    double difference = (logits * real.unsqueeze(-1) - tensors["logits"] * real.unsqueeze(-1)).abs().max().ToDouble();
    string line = $"{name} logits max_abs_diff={difference:0.0e+0}";
    bool good = difference <= 1e-4;

    if (expected.TryGetProperty("greedy", out var greedy))
    {
        bool equal = Rows(greedy.GetProperty("prompts")).Zip(Rows(greedy.GetProperty("new_tokens")))
            .All(pair => Greedy(model, pair.First, pair.Second.Length).SequenceEqual(pair.Second));
        line += $" greedy_equal={(equal ? "true" : "false")}";
        good &= equal;
    }

    // The loss of each real token that has a label, and the norm of its gradient by each parameter.
    if (expected.TryGetProperty("labels", out var labels) && expected.TryGetProperty("grad_norms_all", out var norms))
    {
        long vocabulary = logits.shape[2];
        var loss = nn.functional.cross_entropy(
            logits[.., ..^1].reshape(-1, vocabulary), Matrix(labels)[.., 1..].reshape(-1), ignore_index: -100);
        loss.backward();
        double gradients = GradientDifference(Pretrained.Parameters(model), norms);
        line += $" grad_max_rel_diff={gradients:0e+0}";
        good &= gradients <= 1e-4;
    }
    Console.WriteLine(line);
    return good ? 0 : 1;
}

static int VerifyRewardModel(string name, string folder, JsonElement expected)
{
    var model = Load(folder, Pretrained.RewardModel);
    var rows = expected.GetProperty("right_padded");
    var last = Matrix(rows.GetProperty("attention_mask")).sum(1, keepdim: true) - 1;
    var scores = model.Scores(Matrix(rows.GetProperty("input_ids"))).gather(1, last).squeeze(-1);
    var wanted = tensor(rows.GetProperty("scores").EnumerateArray().Select(s => s.GetSingle()).ToArray());
    double difference = (scores - wanted).abs().max().ToDouble();
    scores.square().mean().backward();
    var norms = rows.GetProperty("grad_norms_all");
    double gradients = GradientDifference(Pretrained.Parameters(model).Where(p => norms.TryGetProperty(p.Name, out _)), norms);
    Console.WriteLine($"{name} scores max_abs_diff={difference:0.0e+0} grad_max_rel_diff={gradients:0e+0}");
    return difference <= 1e-4 && gradients <= 1e-4 ? 0 : 1;
}

static int VerifyEncoder(string name, string folder, JsonElement expected, IReadOnlyDictionary<string, Tensor> tensors)
{
    var model = Load(folder, Pretrained.Encoder);
    var real = Matrix(expected.GetProperty("attention_mask"));
    var segments = expected.TryGetProperty("token_type_ids", out var types) && types.ValueKind == JsonValueKind.Array ? Matrix(types) : null;
    var padding = zeros([real.shape[0], 1, 1, real.shape[1]]).masked_fill((real == 0).unsqueeze(1).unsqueeze(1), double.NegativeInfinity);
    var logits = model.Logits(model.Hidden(Matrix(expected.GetProperty("input_ids")), padding, segments));
    double difference = (logits * real.unsqueeze(-1) - tensors["logits"] * real.unsqueeze(-1)).abs().max().ToDouble();
    nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[2]), Matrix(expected.GetProperty("labels")).reshape(-1), ignore_index: -100).backward();
    double gradients = GradientDifference(Pretrained.Parameters(model), expected.GetProperty("grad_norms_all"));
    Console.WriteLine($"{name} logits max_abs_diff={difference:0.0e+0} grad_max_rel_diff={gradients:0e+0}");
    return difference <= 1e-4 && gradients <= 1e-4 ? 0 : 1;
}

// One token at a time, with a cache, and always the likeliest.
static int[] Greedy(CausalLanguageModel model, int[] prompt, int newTokens)
{
    using var scope = NewDisposeScope();
    using var noGrad = no_grad();
    using var cache = model.CreateCache(rows: 1, prompt.Length + newTokens);
    var ids = tensor(prompt.Select(t => (long)t).ToArray()).unsqueeze(0);
    var tokens = new int[newTokens];
    for (int i = 0; i < newTokens; i++)
    {
        var logits = model.Logits(model.Hidden(ids, cache: cache)[.., -1]);
        ids = logits.argmax(-1, keepdim: true);
        tokens[i] = (int)ids.ToInt64();
    }
    return tokens;
}

// The largest difference of a gradient's norm, as a part of that norm. A bias of keys moves no attention, so that its gradient is nothing but
// rounding: what is less than a millionth of the whole gradient is compared with the whole.
static double GradientDifference(IEnumerable<(string Name, Tensor Parameter)> parameters, JsonElement norms)
{
    double total = Math.Sqrt(norms.EnumerateObject().Sum(n => Math.Pow(n.Value.GetDouble(), 2)));
    return parameters.Max(p =>
    {
        double wanted = norms.GetProperty(p.Name).GetDouble(), got = p.Parameter.grad!.norm().ToDouble();
        return Math.Abs(wanted - got) / (wanted > 1e-6 * total ? wanted : total);
    });
}

// 0 where a token may look, −∞ where not: ahead, and at padding.
static Tensor Hiding(Tensor real)
{
    long t = real.shape[1];
    var hidden = (real == 0).unsqueeze(1).unsqueeze(1) | ones([t, t], @bool).triu(1);
    return zeros(hidden.shape).masked_fill(hidden & ~eye(t, t, @bool), double.NegativeInfinity);
}

static int[][] Rows(JsonElement json) => [.. json.EnumerateArray().Select(row => row.EnumerateArray().Select(n => n.GetInt32()).ToArray())];

static Tensor Matrix(JsonElement json) => stack(Rows(json).Select(row => tensor(row, dtype: int64)).ToArray());
