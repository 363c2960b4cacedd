using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Training;

/// <summary>
/// Whole training runs of other people's trainers, step by step: a mistake that one step hides shows after thirty. The loops here stand in
/// for ours, whose batches are random; model, loss and optimiser are ours.
/// </summary>
public class TrajectoryTests
{
    [Fact]
    public void Thirty_steps_of_a_language_model_equal_transformers()
    {
        var golden = Golden.Load("trajectories/lm/trajectory.json");
        var (expected, hyper) = (golden["expected"], golden["optimizer"]);
        var model = GoldenModel.Load("trajectories/lm/model");
        var options = Options(hyper) with { GradientClipping = golden["clip_grad_norm"].Number };
        using var optimizer = new AdamW(options, model);

        for (int step = 0; step < golden["steps"].Integer; step++)
        {
            using var scope = NewDisposeScope();
            double rate = expected["lr"][step].Number;
            var (ids, positions, labels) = Batch(golden["batches"][step % 6]);

            optimizer.ZeroGradients();
            var loss = NextTokenLoss.Sum(model, ids, positions, labels) / (double)labels.numel();
            loss.backward();
            DecayVectors(model, rate * options.WeightDecay);
            double norm = optimizer.Step(rate);

            Close.Assert(expected["loss"][step].Number, loss.ToDouble(), relative: 1e-5, what: $"loss {step}");
            Close.Assert(expected["grad_norm"][step].Number, norm, relative: 1e-4, what: $"gradient norm {step}");
        }

        var first = golden["batches"][0];
        var logits = model.Logits(model.Hidden(first["input_ids"].Tensor(ScalarType.Int64)));
        var real = first["attention_mask"].Tensor().unsqueeze(-1);
        var finalLogits = Golden.Tensors("trajectories/lm/final_logits.safetensors")["logits"];
        Close.Assert(finalLogits * real, logits * real, relative: 1e-4, absolute: 1e-4, what: "final logit");
        AssertWeights("trajectories/lm/final.safetensors", model.CheckpointTensors());
    }

    [Fact]
    public void Twenty_steps_of_a_reward_model_equal_TRL()
    {
        var golden = Golden.Load("trajectories/reward/trajectory.json");
        var expected = golden["expected"];
        var model = WithoutHeadBias(GoldenModel.LoadScalar("trajectories/reward/model"));
        using var optimizer = new AdamW(Options(golden["optimizer"]) with { GradientClipping = golden["clip_grad_norm"].Number }, model);

        for (int step = 0; step < golden["steps"].Integer; step++)
        {
            using var scope = NewDisposeScope();
            optimizer.ZeroGradients();
            var (chosen, rejected) = Scores(golden["batches"][step % 4]);
            var loss = PreferenceLoss.Pairwise(chosen, rejected).mean();
            loss.backward();
            double norm = optimizer.Step(golden["optimizer"]["lr"].Number);

            Close.Assert(expected["loss"][step].Number, loss.ToDouble(), relative: 1e-4, what: $"loss {step}");
            Close.Assert(expected["grad_norm"][step].Number, norm, relative: 1e-4, what: $"gradient norm {step}");
            Close.Assert(expected["accuracy"][step].Number, (chosen > rejected).to(float32).mean().ToDouble(), relative: 1e-6,
                what: $"accuracy {step}");
            Close.Assert(
                expected["margin"][step].Number, (chosen - rejected).mean().ToDouble(), relative: 1e-4, absolute: 1e-5,
                what: $"margin {step}");
        }

        for (int i = 0; i < 4; i++)
        {
            var (chosen, rejected) = Scores(golden["batches"][i]);
            var final = expected["final_rewards"][i];
            Close.Assert(final["chosen"].Tensor(), chosen, relative: 1e-4, absolute: 1e-4, $"final rewards of the chosen, batch {i}");
            Close.Assert(final["rejected"].Tensor(), rejected, relative: 1e-4, absolute: 1e-4, $"final rewards of the rejected, batch {i}");
        }
        AssertWeights("trajectories/reward/final.safetensors", model.CheckpointTensors());

        (Tensor Chosen, Tensor Rejected) Scores(Golden pairs)
        {
            int[][] rows = [.. pairs.Items.Select(p => p["chosen_ids"].Integers), .. pairs.Items.Select(p => p["rejected_ids"].Integers)];
            var scores = RewardScoring.AtLastToken(model, PaddedBatch.Create(rows, CPU));
            return (scores[..(rows.Length / 2)], scores[(rows.Length / 2)..]);
        }
    }

    /// <summary>
    /// The reference is asked before training, in batches of another order: rewards of the first step are 0 but for rounding.
    /// </summary>
    [Fact]
    public void Ten_steps_of_DPO_equal_TRL()
    {
        var golden = Golden.Load("trajectories/dpo/trajectory.json");
        var expected = golden["expected"];
        var model = GoldenModel.Load("trajectories/dpo/model");
        Golden[] rows = [.. golden["batches"].Items.SelectMany(batch => batch.Items)];
        int pairs = golden["batches"][0].Items.Count();
        var data = ReferencedPreferences.Create(
            model, new PreferenceData(Completions(rows, "chosen_ids"), Completions(rows, "rejected_ids")), new RecordedRun().Run);
        var options = new PairOptions { Beta = golden["beta"].Number };
        using var optimizer = new AdamW(Options(golden["optimizer"]) with { GradientClipping = golden["clip_grad_norm"].Number }, model);

        for (int step = 0; step < golden["steps"].Integer; step++)
        {
            optimizer.ZeroGradients();
            int[] batch = [.. Enumerable.Range(step % 2 * pairs, pairs)];
            var statistics = DpoTraining.AccumulateGradients(model, data, batch, options);
            double norm = optimizer.Step(golden["optimizer"]["lr"].Number);

            var progress = statistics.Progress(new RecordedRun().Run, step + 1, 10, null, 1e-3, norm);
            void Equal(string name, double actual) =>
                Close.Assert(expected[name][step].Number, actual, relative: 1e-4, absolute: 1e-5, $"{name} of step {step}");
            Equal("loss", progress.Loss);
            Equal("grad_norm", progress.GradientNorm);
            Equal("rewards_chosen", progress.ChosenReward);
            Equal("rewards_rejected", progress.RejectedReward);
            Equal("logps_chosen", progress.ChosenLogProb);
            Equal("logps_rejected", progress.RejectedLogProb);
            if (step > 0)
                Equal("reward_accuracy", progress.RewardAccuracy);
        }

        AssertWeights("trajectories/dpo/final.safetensors", model.CheckpointTensors());

        static CompletionData Completions(Golden[] rows, string answers)
        {
            var sequences = new TokenSequences();
            foreach (var row in rows)
                sequences.Add([.. row["prompt_ids"].Integers, .. row[answers].Integers]);
            return new CompletionData(sequences, [.. rows.Select(row => row["prompt_ids"].Integers.Length)]);
        }
    }

    /// <summary>
    /// Two rollouts, each four epochs of two minibatches. Three conventions of TRL's are not ours and are made up for here: the score
    /// stands one slot after the last token; that slot belongs to the value's mask ("mask_p1"), though not to the policy's; and advantages
    /// are whitened with Bessel's correction. Since policy and value are separate networks, one pass for each, with its own mask, adds up
    /// to TRL's gradient.
    /// </summary>
    [Fact]
    public void Two_rollouts_and_sixteen_steps_of_PPO_equal_TRL()
    {
        var golden = Golden.Load("trajectories/ppo/trajectory.json");
        var arrays = Golden.Tensors("trajectories/ppo/arrays.safetensors");
        var (policy, reference) = (GoldenModel.Load("trajectories/ppo/policy"), GoldenModel.Load("trajectories/ppo/policy").Freeze());
        var value = WithoutHeadBias(GoldenModel.LoadScalar("trajectories/ppo/value"));
        var hyper = golden["hyper"];
        var options = new PolicyOptions
        {
            KlCoefficient = hyper["kl_coef"].Number,
            ClipRange = hyper["cliprange"].Number,
            ValueClipRange = hyper["cliprange_value"].Number,
            ValueCoefficient = hyper["vf_coef"].Number,
            Gamma = hyper["gamma"].Number,
            Lambda = hyper["lam"].Number,
        };
        var run = new RecordedRun().Run;
        var policyPass = new PpoTraining(policy, value, reference, _ => [], 1, options with { ValueCoefficient = 0 }, run);
        var valuePass = new PpoTraining(policy, value, reference, _ => [], 1, options, run);
        using var optimizer = new AdamW(
            Options(golden["optimizer"]) with { GradientClipping = double.PositiveInfinity, WeightDecay = 0 }, policy, value);

        for (int i = 0; i < 2; i++)
        {
            using var scope = NewDisposeScope();
            var data = golden["batches"][i];
            Tensor mask = data["mask"].Tensor(), valueMask = data["mask_p1"].Tensor();
            var episodes = Episodes(data, mask);
            var rollout = TrlRollout(policy, reference, value, episodes, valueMask, data, options);
            foreach (var (name, tensor, where) in new[]
            {
                ("logprobs", rollout.LogProbs, mask), ("values", rollout.Values, valueMask),
                ("advantages", rollout.Advantages, mask), ("returns", rollout.Returns, valueMask),
            })
                Close.Assert(arrays[$"batch{i}.{name}"] * where, tensor * where, relative: 1e-4, absolute: 1e-4, $"{name} of batch {i}");

            foreach (var expected in data["expected"]["minibatches"].Items)
            {
                using var step = NewDisposeScope();
                string at = $"in batch {i}, epoch {expected["epoch"].Integer}, minibatch {expected["minibatch"].Integer}";
                int[] rows = expected["indices"].Integers;
                PpoTraining.Statistics ofPolicy = new(), ofValue = new();

                optimizer.ZeroGradients();
                policyPass.AccumulateGradients(rollout, rows, ofPolicy);
                valuePass.AccumulateGradients(
                    rollout with { Episodes = episodes with { Mask = valueMask }, Advantages = zeros_like(rollout.Advantages) }, rows,
                    ofValue);
                double policyNorm = Norm(policy), valueNorm = Norm(value);
                optimizer.Step(expected["learning_rate"].Number);

                Close.Assert(expected["pg_loss"].Number, ofPolicy.PolicyLoss, relative: 1e-4, absolute: 1e-5, $"policy loss {at}");
                Close.Assert(expected["vf_loss"].Number, ofValue.ValueLoss, relative: 1e-4, what: $"value loss {at}");
                Close.Assert(expected["pg_clipfrac"].Number, ofPolicy.PolicyClipFraction, relative: 1e-5,
                    what: $"policy clip fraction {at}");
                Close.Assert(expected["vf_clipfrac"].Number, ofValue.ValueClipFraction, relative: 1e-5,
                    what: $"value clip fraction {at}");
                Close.Assert(expected["policy_grad_norm"].Number, policyNorm, relative: 1e-3, what: $"policy gradient {at}");
                Close.Assert(expected["value_grad_norm"].Number, valueNorm, relative: 1e-3, what: $"value gradient {at}");

                // TRL takes these two means over padding too, where the log-ratio is 0 and the ratio 1.
                double real = mask.index_select(0, tensor(rows.Select(r => (long)r).ToArray())).mean().ToDouble();
                Close.Assert(expected["approxkl"].Number, ofPolicy.ApproximateKl * real, relative: 1e-3, absolute: 1e-9,
                    $"approximate KL {at}");
                Close.Assert(expected["ratio_mean"].Number, ofPolicy.RatioMean * real + 1 - real, relative: 1e-5,
                    what: $"ratio {at}");
            }
        }

        var last = golden["batches"][1];
        Tensor lastMask = last["mask"].Tensor(), lastValueMask = last["mask_p1"].Tensor();
        var lastEpisodes = Episodes(last, lastMask);
        Close.Assert(arrays["batch1.final_logprobs"], LogProbs(policy, lastEpisodes), absolute: 1e-3, what: "final log-probability");
        Close.Assert(
            arrays["batch1.final_values"], (lastEpisodes with { Mask = lastValueMask }).Values(value), absolute: 1e-3, what: "final value");
        AssertWeights("trajectories/ppo/policy_final/final.safetensors", policy.CheckpointTensors());
        AssertWeights("trajectories/ppo/value_final/final.safetensors", value.CheckpointTensors());
    }

    /// <summary>All final weights, but for the keys' biases: these have no gradient but rounding, which Adam scales up.</summary>
    private static void AssertWeights(string file, IEnumerable<(string Name, Tensor Target)> weights)
    {
        var final = Golden.Tensors(file);
        foreach (var (name, ours) in weights.Where(w => w.Name != "score.bias")) // theirs has none
        {
            if (!final.TryGetValue(name, out var theirs))
                theirs = final[name["transformer.".Length..]];
            long width = ours.shape[0] / 3;
            foreach (var (from, count) in name.EndsWith("c_attn.bias", StringComparison.Ordinal)
                ? [(0, width), (2 * width, width)] : new[] { (0L, ours.shape[0]) })
                Close.Assert(theirs.narrow(0, from, count), ours.narrow(0, from, count), absolute: 1e-4, what: $"{name} of {file}");
        }
    }

    private static Rollout TrlRollout(
        CausalLanguageModel policy, CausalLanguageModel reference, ScalarGpt value, EpisodeBatch episodes, Tensor valueMask, Golden data, PpoHyperparameters options)
    {
        using var noGrad = no_grad();
        Tensor logProbs = LogProbs(policy, episodes), values = (episodes with { Mask = valueMask }).Values(value);
        var noScore = zeros(episodes.Ids.shape[0]);
        var rewards = PolicyRewards.WithKlPenalty(logProbs, LogProbs(reference, episodes), episodes.Mask, noScore, options.KlCoefficient);
        rewards = rewards.scatter_add(-1, data["score_index"].Tensor(ScalarType.Int64).unsqueeze(-1),
            data["scores"].Tensor().unsqueeze(-1));
        var (advantages, returns) = PolicyRewards.GeneralizedAdvantages(rewards, values, options.Gamma, options.Lambda);
        var whitened = MaskedStatistics.Whiten(advantages, episodes.Mask, unbiased: true) * episodes.Mask;
        return new Rollout(episodes, logProbs, values, whitened, returns);
    }

    private static Tensor LogProbs(CausalLanguageModel model, EpisodeBatch episodes) => episodes.LogProbs(model, temperature: 1);

    /// <summary>
    /// As <see cref="EpisodeBatch.Create"/> makes it, but the token behind the response has a state as well: TRL reads a value there.
    /// </summary>
    private static EpisodeBatch Episodes(Golden data, Tensor mask)
    {
        int[][] prompts = [.. data["queries"].Items.Select(q => q.Integers.SkipWhile(token => token == 0).ToArray())];
        int[][] responses = [.. data["responses"].Items.Zip(data["mask"].Items, (r, m) => r.Integers[..m.Integers.Sum()])];
        EpisodeBatch Create(params int[] more) =>
            EpisodeBatch.Create([.. prompts.Select((p, i) => new Episode(p, [.. responses[i], .. more], [], Ended: true))], CPU);
        var batch = Create();
        Assert.Equal(mask.shape, batch.Mask.shape);
        Close.Assert(mask, batch.Mask);
        var states = tensor(prompts.Select(p => p.Length - 1L).ToArray()).unsqueeze(-1) + arange(mask.shape[1]);
        return batch with { Ids = Create(0).Ids, StatePositions = states };
    }

    private static (Tensor Ids, Tensor Positions, Tensor Labels) Batch(Golden batch)
    {
        var sequences = new TokenSequences();
        foreach (var (ids, mask) in batch["input_ids"].Items.Zip(batch["attention_mask"].Items))
            sequences.Add(ids.Integers[..mask.Integers.Sum()]);
        int[] rows = [.. Enumerable.Range(0, sequences.Count)];
        return NextTokenLoss.CompletionBatch(new CompletionData(sequences, new int[rows.Length]), rows, CPU, promptsToo: true);
    }

    private static PlainOptions Options(Golden hyper) => new()
    {
        Beta1 = hyper["betas"][0].Number,
        Beta2 = hyper["betas"][1].Number,
        Epsilon = hyper["eps"].Number,
        WeightDecay = hyper["weight_decay"].Number,
    };

    /// <summary>The reference decays biases and norms too; we do not.</summary>
    private static void DecayVectors(CausalLanguageModel model, double decay)
    {
        using var noGrad = no_grad();
        foreach (var vector in model.parameters().Where(p => p.ndim < 2))
            vector.mul_(1 - decay);
    }

    /// <summary>
    /// Hugging Face's head has no bias. In exact arithmetic it has no gradient here either, but Adam would scale the rounding up.
    /// </summary>
    private static ScalarGpt WithoutHeadBias(ScalarGpt model)
    {
        model.named_parameters().Single(p => p.name == "score.bias").parameter.requires_grad_(false);
        return model;
    }

    private static double Norm(nn.Module module) =>
        Math.Sqrt(module.parameters().Where(p => p.requires_grad).Sum(p => Math.Pow(p.grad!.norm().ToDouble(), 2)));
}
