using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Tests.Modules;
using ML.Rlhf.Torch.Training;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace ML.Rlhf.Torch.Tests.Training;

/// <summary>
/// Fine-tuning of imported models, with all weights and with adapters: everything that should learn does, and nothing else moves. What
/// holds for all loops, with adapters as without, stands in <see cref="TrainingLoopTests"/>.
/// </summary>
public class LoraTrainingTests
{
    private static readonly string[] s_stages = ["SFT", "Reward model", "DPO", "PPO", "PPO, shared trunk"];

    public static MatrixTheoryData<string, string, bool> EveryFamilyAndStage { get; } =
        new(["gpt2", "llama-untied", "qwen2", "qwen3", "mistral"], s_stages, [true, false]);

    [Theory]
    [MemberData(nameof(EveryFamilyAndStage))]
    public void Every_trainable_parameter_moves_and_no_frozen_one(string family, string stage, bool lora)
    {
        using var model = GoldenModel.Load("models/" + family);
        var original = TinyGpt.Snapshot(model);

        // A second step, because the first one finds B = 0, and so no gradient for A.
        var trained = Train(model, stage, lora ? new LoraOptions { Rank = 3 } : null, out var reports);

        Assert.Equal(0, reports.OfType<PpoProgress>().FirstOrDefault()?.Kl ?? 0);
        foreach (var (network, before, isReference) in trained)
        {
            Assert.All(network.named_parameters(), p =>
            {
                if (stage == "Reward model" && p.name == "score.bias")
                    return; // a difference of two scores has none: rounding decides whether it moves
                bool moved = Close.Distance(before[p.name], p.parameter) > 0;
                Assert.True(moved == p.parameter.requires_grad, $"{p.name} {(moved ? "moved" : "did not move")}");
            });
            string[] trainable = [.. network.named_parameters().Where(p => p.parameter.requires_grad).Select(p => p.name)];
            bool isScalar = network is ScalarGpt && stage != "PPO, shared trunk";
            bool ShouldLearn(string name) =>
                !isReference
                && (!lora || name.Contains(".lora.") || name.StartsWith("score.", StringComparison.Ordinal))
                && !(isScalar && name.EndsWith("lm_head.weight", StringComparison.Ordinal)); // nothing reads it
            Assert.Equal(network.named_parameters().Select(p => p.name).Where(ShouldLearn), trainable);
        }
        Assert.All(model.named_parameters(), p => Close.AssertSameBits(original[p.name], p.parameter, p.name));
    }

    [Theory]
    [InlineData("PPO")]
    [InlineData("PPO, shared trunk")]
    public void Policy_value_function_and_reference_are_one_model_in_memory(string stage)
    {
        using var model = GoldenModel.Load("models/qwen3");

        var networks = Train(model, stage, new LoraOptions(), out _).Select(t => t.Network is ScalarGpt s ? s.Trunk : t.Network);

        Assert.All(networks.Cast<CausalLanguageModel>(), network => Assert.All(
            model.parameters().Zip(network.BaseParameters()), p => Assert.True(LowRankAdapterTests.IsSame(p.First, p.Second.Parameter))));
    }

    [Fact]
    public void The_optimizer_has_room_for_adapters_only()
    {
        using var model = GoldenModel.Load("models/llama-untied");
        using var adapted = FineTuning.Begin(model, new SftOptions { Lora = new LoraOptions { Rank = 2 } }, new RecordedRun().Run);

        using var optimizer = new AdamW(new PlainOptions(), adapted);

        Assert.Equal(adapted.Adapters.Sum(a => a.A.numel() + a.B.numel()), optimizer.Parameters.numel());
        Assert.InRange(optimizer.Parameters.numel(), 1, model.Architecture.ParameterCount / 5);
    }

    [Fact]
    public void Adapters_alone_learn_rows_by_heart()
    {
        using var model = TinyGpt.Random(); // a fresh one has embeddings near 0, which stay
        var data = TinyData.Completions(rows: 8);
        double Loss(CausalLanguageModel m) => NextTokenLoss.Completions(m, data).Mean;
        var options = new SftOptions { Epochs = 60, BatchSize = 8, LearningRate = 2e-2, Lora = new LoraOptions { Rank = 4 } };
        using var adapted = FineTuning.Begin(model, options, new RecordedRun().Run);

        SupervisedFineTuning.Run(adapted, data, null, options, new RecordedRun().Run);

        Assert.InRange(Loss(model), 3, 6); // a guess has ln 19 = 2.94
        Assert.InRange(Loss(adapted), 0, 1);
    }

    [Fact]
    public void A_model_with_adapters_is_merged_before_it_gets_others()
    {
        using var noGrad = no_grad();
        using var model = TinyGpt.Random();
        LowRankAdapterTests.Attach(model, new LoraOptions { Rank = 2 }, disturb: true);
        var before = LowRankAdapterTests.Logits(model);

        using var adapted = FineTuning.Begin(model, new SftOptions { Lora = new LoraOptions { Rank = 3 } }, new RecordedRun().Run);
        using var reference = FineTuning.Reference(adapted);

        Assert.All(adapted.Adapters, adapter => Assert.Equal(3, adapter.Shape.Rank));
        Close.Assert(before, LowRankAdapterTests.Logits(adapted), relative: 1e-5, absolute: 1e-5);
        Close.AssertSameBits(LowRankAdapterTests.Logits(adapted), LowRankAdapterTests.Logits(reference));
        Assert.DoesNotContain(
            model.BaseParameters().Zip(adapted.BaseParameters()),
            p => LowRankAdapterTests.IsSame(p.First.Parameter, p.Second.Parameter));
    }

    /// <summary>Runs two updates, and gives what took part with the parameters that it had before.</summary>
    private static List<(Module Network, Dictionary<string, Tensor> Before, bool IsReference)> Train(
        CausalLanguageModel model, string stage, LoraOptions? lora, out List<TrainingProgress> reports)
    {
        var recorded = new RecordedRun(seed: 3);
        var run = recorded.Run;
        var networks = new List<(Module, Dictionary<string, Tensor>, bool)>();
        T Watched<T>(T network, bool isReference = false) where T : Module
        {
            networks.Add((network, TinyGpt.Snapshot(network), isReference));
            return network;
        }
        using var generator = new Generator(4, CPU);
        switch (stage)
        {
            case "SFT":
                var sft = new SftOptions { Epochs = 2, BatchSize = 8, Lora = lora };
                SupervisedFineTuning.Run(Watched(FineTuning.Begin(model, sft, run)), TinyData.Completions(8), null, sft, run);
                break;
            case "Reward model":
                var reward = new RewardOptions { Epochs = 2, BatchSize = 8, Lora = lora };
                RewardModelTraining.Run(
                    Watched(new ScalarGpt(FineTuning.BeginTrunk(model, reward, run), generator)), TinyData.RaggedRankings(8), null, null,
                    reward, run);
                break;
            case "DPO":
                var dpo = new PairOptions { Epochs = 2, BatchSize = 8, Lora = lora };
                DpoTraining.Run(Watched(FineTuning.Begin(model, dpo, run)), TinyData.Preferences(8), null, dpo, run);
                break;
            default:
                bool shared = stage != "PPO";
                var ppo = new PolicyOptions
                {
                    Episodes = 8, EpisodesPerUpdate = 8, EpochsPerUpdate = 2, MaxResponseTokens = 4, UnfinishedScore = null, Lora = lora,
                    LearningRate = 1e-3, ValueClipRange = 1e6, // a value that is clipped has no gradient
                    ValueFunction = shared ? ValueFunction.SharedTrunk : ValueFunction.Network,
                };
                var policy = FineTuning.Begin(model, ppo, run);
                var value = shared
                    ? new ScalarGpt(policy, generator)
                    : Watched(new ScalarGpt(FineTuning.BeginTrunk(model, ppo, run), generator));
                Watched<Module>(shared ? value : policy);
                var reference = Watched(FineTuning.Reference(policy), isReference: true);
                new PpoTraining(policy, value, reference, episodes => [.. episodes.Select(e => e.Response.Average())],
                    TinyPpo.EndToken, ppo, run).Run(TinyPpo.Prompts);
                break;
        }
        reports = recorded.Reports;
        return networks;
    }
}
