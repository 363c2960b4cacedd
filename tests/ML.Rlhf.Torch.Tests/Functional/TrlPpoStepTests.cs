using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Training;
using ML.Rlhf.Torch.Tests.Training;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Functional;

/// <summary>
/// One update of TRL's PPO trainer, rebuilt from our functions in the order of the fixture's README. Its conventions are not those of
/// our trainer: the score stands one slot behind the last token, padding has log-probability 1, some statistics count padding, and
/// variances are unbiased. What differs is only which masks and paddings the functions are given.
/// </summary>
public class TrlPpoStepTests
{
    public static TheoryData<ScalarType, double, int> Cases
    {
        get
        {
            var cases = new TheoryData<ScalarType, double, int>();
            for (int index = 0; index < Golden.Load("rl/ppo_step.json")["cases"].Items.Count(); index++)
            {
                cases.Add(ScalarType.Float32, 1e-5, index);
                cases.Add(ScalarType.Float64, 2e-7, index); // some of the reference's own statistics are float32
            }
            return cases;
        }
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void Every_number_of_the_update_equals_the_reference(ScalarType type, double tolerance, int index)
    {
        var c = Golden.Load("rl/ppo_step.json")["cases"][index];
        Golden hyper = c["hyper"], expected = c["expected"], stats = expected["stats"];
        Tensor Given(string name) => c[name].Tensor(type);
        void Check(string name, Tensor actual) =>
            Close.Assert(expected[name].Tensor(type), actual, tolerance, absolute: tolerance / 10, name);
        void CheckStatistic(string name, Tensor actual) =>
            Close.Assert(stats[name].Number, actual.ToDouble(), tolerance, absolute: tolerance / 10, name);

        // 1–3. Responses end with their first end token, or never. One mask ends with the last token, the other one slot later.
        int end = c["eos_token_id"].Integer;
        Episode[] episodes = [.. c["queries"].Items.Zip(c["responses"].Items, (query, response) =>
        {
            int length = Array.IndexOf(response.Integers, end) + 1;
            return new Episode(query.Integers, length > 0 ? response.Integers[..length] : response.Integers, [], length > 0);
        })];
        var batch = EpisodeBatch.Create(episodes, CPU);
        var mask = batch.Mask.to(type);                                                       // (B, R)
        var last = mask.sum(-1, keepdim: true) - 1;                                           // (B, 1)
        var maskPlus1 = (arange(mask.shape[1]) <= last + 1).to(type);                         // (B, R)
        Check("postprocessed_responses", batch.Responses);
        Check("sequence_lengths", last.squeeze(-1));
        Check("contain_eos", tensor(Array.ConvertAll(episodes, e => e.Ended)));
        Check("mask", mask);
        Check("mask_p1", maskPlus1);
        Check("score_index", maskPlus1.sum(-1) - 1);

        // 4. Log-probabilities are 1 on padding, values 0; a response that does not end costs a penalty.
        Tensor Masked(string name) => Given(name).masked_fill(mask == 0, 1);
        Tensor oldLogProbs = Masked("old_logprobs"), referenceLogProbs = Masked("ref_logprobs"), values = Given("values") * maskPlus1;
        var options = new PolicyOptions
        {
            UnfinishedScore = null,
            UnfinishedPenalty = hyper["missing_eos_penalty"].IsNull ? 0 : hyper["missing_eos_penalty"].Number,
        };
        var source = new EpisodeSource(
            TinyGpt.Fresh(), TinyPpo.Prompts, _ => c["scores"].Numbers, end, options, new RecordedRun().Run);
        var scores = tensor(source.Score(episodes)).to(type);                                 // (B)
        Check("scores_after_penalty", scores);

        // 5–7. Rewards: −β·KL per token, and the score in the slot behind the last token.
        double klCoefficient = hyper["kl_coef"].Number;
        var kl = hyper["kl_estimator"].Text == "k1"
            ? KlEstimators.K1(oldLogProbs, referenceLogProbs) : KlEstimators.K3(oldLogProbs, referenceLogProbs);
        var penalties = PolicyRewards.WithKlPenalty(kl, zeros_like(kl), maskPlus1, zeros_like(scores), klCoefficient);
        var rewards = PolicyRewards.WithKlPenalty(kl, zeros_like(kl), maskPlus1, scores, klCoefficient);
        Check("kl", kl);
        Check("non_score_reward", penalties);
        Check("rewards_before_whitening", rewards);
        if (hyper["whiten_rewards"].Boolean)
            rewards = MaskedStatistics.Whiten(rewards, maskPlus1, shiftMean: false, unbiased: true) * maskPlus1;
        Check("rewards", rewards);

        // 8. Advantages.
        var (advantages, returns) = PolicyRewards.GeneralizedAdvantages(rewards, values, hyper["gamma"].Number, hyper["lam"].Number);
        Check("advantages_before_whitening", advantages);
        Check("returns", returns);
        advantages = MaskedStatistics.Whiten(advantages, mask, unbiased: true) * mask;
        Check("advantages", advantages);

        // 9. Losses and their gradients.
        double clip = hyper["cliprange"].Number, valueClip = hyper["cliprange_value"].Number;
        Tensor newLogProbs = Given("new_logprobs").requires_grad_(), newValues = Given("vpreds").requires_grad_();
        Tensor logProbs = newLogProbs.masked_fill(mask == 0, 1), predictions = newValues * maskPlus1;
        var ratio = PpoLoss.Ratio(logProbs, oldLogProbs);
        var policyLoss = MaskedStatistics.Mean(PpoLoss.Policy(ratio, advantages, clip), mask);
        var valueLoss = MaskedStatistics.Mean(PpoLoss.Value(predictions, values, returns, valueClip), maskPlus1);
        var loss = policyLoss + hyper["vf_coef"].Number * valueLoss;
        loss.backward();
        Check("loss", loss);
        Check("grad_new_logprobs", newLogProbs.grad!);
        Check("grad_vpreds", newValues.grad!);

        // 10. Statistics; those without a mask count padding.
        CheckStatistic("pg_loss", policyLoss);
        CheckStatistic("vf_loss", valueLoss);
        CheckStatistic("pg_clipfrac", MaskedStatistics.Mean(PpoLoss.PolicyIsClipped(ratio, advantages, clip).to(type), mask));
        CheckStatistic(
            "vf_clipfrac", MaskedStatistics.Mean(PpoLoss.ValueIsClipped(predictions, values, returns, valueClip).to(type), maskPlus1));
        CheckStatistic("approxkl", KlEstimators.K2(logProbs, oldLogProbs).mean());
        CheckStatistic("ratio_mean", ratio.mean());
        CheckStatistic("entropy", LogProbabilities.Entropy(Given("logits_for_entropy") / hyper["temperature"].Number).mean());
        CheckStatistic("objective_kl", kl.sum(-1).mean());
        CheckStatistic("objective_entropy", -oldLogProbs.sum(-1).mean());
        CheckStatistic("objective_non_score_reward", penalties.sum(-1).mean());
        CheckStatistic("objective_scores", scores.mean());
        CheckStatistic("objective_rlhf_reward", (penalties.sum(-1) + scores).mean());
    }

    [Fact]
    public void No_number_of_the_reference_is_left_out()
    {
        var expected = Golden.Load("rl/ppo_step.json")["cases"][0]["expected"];

        Assert.Equal(
            "advantages advantages_before_whitening contain_eos grad_new_logprobs grad_vpreds kl loss mask mask_p1 non_score_reward " +
            "postprocessed_responses returns rewards rewards_before_whitening score_index scores_after_penalty sequence_lengths stats",
            string.Join(' ', expected.Members.Select(m => m.Name).Order(StringComparer.Ordinal)));
        Assert.Equal(
            "approxkl entropy objective_entropy objective_kl objective_non_score_reward objective_rlhf_reward objective_scores " +
            "pg_clipfrac pg_loss ratio_mean vf_clipfrac vf_loss",
            string.Join(' ', expected["stats"].Members.Select(m => m.Name).Order(StringComparer.Ordinal)));
    }
}
