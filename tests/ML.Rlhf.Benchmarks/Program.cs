using System.CommandLine;
using ML.Rlhf.Benchmarks;
using ML.Rlhf.Benchmarks.Measuring;
using ML.Rlhf.Benchmarks.Micro;
using ML.Rlhf.Benchmarks.Works;
using ML.Rlhf.Torch.Native;

LibTorch.EnsureLoaded();

// side-by-side: what the README and RESULTS.md quote.
var peer = new Option<DirectoryInfo?>("--peer") { Description = "A folder with PyTorch and transformers; without it, only ours runs." };
var only = new Option<string>("--only") { Description = "One work, or all whose names begin so.", DefaultValueFactory = _ => "" };
var rounds = new Option<int>("--rounds") { Description = "How often both sides run.", DefaultValueFactory = _ => 5 };
var clearBlas = new Option<bool>("--clear-blas") { Description = "Hides OPENBLAS_… and MKL_… variables, where there are any, from the peer." };
var sideBySide = new Command("side-by-side", "Our tokens per second beside PyTorch's, in turn.") { peer, only, rounds, clearBlas };
sideBySide.SetAction(parsed => SideBySide.Run(
    AllWorks.Find(parsed.GetValue(only)!),
    parsed.GetValue(peer) is { } folder ? new PeerFolder(folder.FullName, parsed.GetValue(clearBlas)) : null,
    Math.Max(1, parsed.GetValue(rounds))));

var growth = new Command("growth", "What four sizes each of training, decoding and models cost.");
growth.SetAction(_ => Growth.Run());

// micro: BenchmarkDotNet, whose own options may follow.
var micro = new Command("micro", "Small parts, by BenchmarkDotNet.") { TreatUnmatchedTokensAsErrors = false };
micro.SetAction(parsed => MicroBenchmarks.Run([.. parsed.UnmatchedTokens]));

// What side-by-side starts in processes of their own.
var name = new Argument<string>("name");
var ours = new Command("ours", "Our side of one work, once.") { name };
ours.Hidden = true;
ours.SetAction(parsed => Console.WriteLine(AllWorks.Find(parsed.GetValue(name)!).Single().RunOurs().ToLine("ours")));
var limit = new Command("limit", "What this machine can do at best.") { Hidden = true };
limit.SetAction(_ => Console.WriteLine(MachineLimit.Measure().ToLine()));

return new RootCommand("How fast ML.Rlhf is.") { sideBySide, growth, micro, ours, limit }.Parse(args).Invoke();
