using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Functional;

/// <summary>From scores and log-probabilities to rewards and advantages per token. B = episodes, R = response tokens.</summary>
public static class PolicyRewards
{
    /// <summary>
    /// r_t = −β·(log π(y_t) − log π_ref(y_t)), and the score added at the last real token
    /// (lm-human-preferences; Ouyang et al. 2022, eq. 2).
    /// </summary>
    /// <param name="logProbs">log π of each response token (B, R).</param>
    /// <param name="referenceLogProbs">log π_ref of each response token (B, R).</param>
    /// <param name="mask">1 for real response tokens, the end token included (B, R); every row has at least one.</param>
    /// <param name="scores">Score of each episode (B).</param>
    /// <param name="klCoefficient">β, at least 0.</param>
    /// <returns>Rewards (B, R), 0 on padding.</returns>
    public static Tensor WithKlPenalty(Tensor logProbs, Tensor referenceLogProbs, Tensor mask, Tensor scores, double klCoefficient)
    {
        using var scope = NewDisposeScope();
        var rewards = (logProbs - referenceLogProbs) * (-klCoefficient) * mask;               // (B, R)
        var last = mask.sum(-1, keepdim: true).to(int64) - 1;                                 // (B, 1)
        return rewards.scatter_add(-1, last, scores.unsqueeze(-1)).MoveToOuterDisposeScope();
    }

    /// <summary>
    /// Generalised advantage estimation (Schulman et al. 2015, arXiv 1506.02438, eq. 16):
    /// δ_t = r_t + γ·V_{t+1} − V_t and A_t = δ_t + γλ·A_{t+1}, with V = 0 after the last token.
    /// </summary>
    /// <param name="rewards">(B, R), 0 on padding.</param>
    /// <param name="values">V_t, read before y_t is seen (B, R), 0 on padding.</param>
    /// <param name="gamma">Discount γ in [0, 1]; 1 for language, where the episode is short.</param>
    /// <param name="lambda">Trade of bias (0) against variance (1).</param>
    /// <returns>Advantages, and returns = advantages + values; both (B, R).</returns>
    public static (Tensor Advantages, Tensor Returns) GeneralizedAdvantages(Tensor rewards, Tensor values, double gamma, double lambda)
    {
        using var scope = NewDisposeScope();
        long length = rewards.size(1);
        var columns = new Tensor[length];
        Tensor advantage = zeros_like(rewards[TensorIndex.Colon, 0]);                         // (B)
        for (long t = length - 1; t >= 0; t--)
        {
            var delta = rewards[TensorIndex.Colon, t] - values[TensorIndex.Colon, t];
            if (t < length - 1)
                delta = delta + values[TensorIndex.Colon, t + 1] * gamma;
            columns[t] = advantage = delta + advantage * (gamma * lambda);
        }
        var advantages = stack(columns, 1);                                                   // (B, R)
        return (advantages.MoveToOuterDisposeScope(), (advantages + values).MoveToOuterDisposeScope());
    }
}
