using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Training;

/// <summary>
/// A prompt and what the policy answered, in tokens. Tokens are never decoded and encoded again between sampling and training.
/// </summary>
/// <param name="Prompt">At least one token.</param>
/// <param name="Response">At least one token, the end token included where one was drawn.</param>
/// <param name="SampledLogProbs">log π of each response token as it was drawn.</param>
/// <param name="Ended">Whether the response ended with the end token.</param>
internal sealed record Episode(int[] Prompt, int[] Response, float[] SampledLogProbs, bool Ended);

/// <summary>
/// The episodes of one update as tensors. Prompt and response of an episode stand side by side, padded on the right. B = episodes, T =
/// longest episode without its last token, which predicts nothing, R = longest response, N = response tokens of all episodes.
/// </summary>
/// <param name="Ids">Prompt and response tokens, int64 (B, T).</param>
/// <param name="StatePositions">For each response token, which of the T states predicts it, int64 (B, R); any valid position on
/// padding.</param>
/// <param name="Responses">Response tokens, int64 (B, R), 0 on padding.</param>
/// <param name="Mask">1 for real response tokens (B, R).</param>
internal sealed record EpisodeBatch(Tensor Ids, Tensor StatePositions, Tensor Responses, Tensor Mask)
{
    public static EpisodeBatch Create(IReadOnlyList<Episode> episodes, Device device)
    {
        int rows = episodes.Count, width = episodes.Max(e => e.Prompt.Length + e.Response.Length) - 1,
            response = episodes.Max(e => e.Response.Length);
        long[] ids = new long[rows * width], states = new long[rows * response], tokens = new long[rows * response];
        float[] mask = new float[rows * response];
        for (int i = 0; i < rows; i++)
        {
            var (prompt, answer) = (episodes[i].Prompt, episodes[i].Response);
            for (int t = 0; t < prompt.Length; t++)
                ids[i * width + t] = prompt[t];
            for (int t = 0; t < answer.Length; t++)
            {
                if (t + 1 < answer.Length)
                    ids[i * width + prompt.Length + t] = answer[t];
                tokens[i * response + t] = answer[t];
                states[i * response + t] = prompt.Length + t - 1; // everything before y_t has been seen, y_t has not
                mask[i * response + t] = 1;
            }
        }
        return new EpisodeBatch(
            tensor(ids, [rows, width], device: device), tensor(states, [rows, response], device: device),
            tensor(tokens, [rows, response], device: device), tensor(mask, [rows, response], device: device));
    }

    /// <summary>Rows in parts of at most some size, one pass each: where there are several, of similar length, for little padding.</summary>
    public IEnumerable<int[]> Parts(int[] rows, int? size)
    {
        if (size is null || size >= rows.Length)
            return [rows];
        using var scope = NewDisposeScope();
        long[] lengths = (StatePositions * Mask).amax([1]).to(int64).cpu().data<long>().ToArray();
        return rows.OrderBy(row => lengths[row]).Chunk(size.Value);
    }

    /// <summary>Some of the episodes, only as wide as these are.</summary>
    /// <param name="rows">int64 (b).</param>
    public EpisodeBatch Select(Tensor rows)
    {
        using var scope = NewDisposeScope();
        Tensor mask = Mask.index_select(0, rows), states = StatePositions.index_select(0, rows);
        long response = mask.amax([0]).sum().ToInt64(), width = (states * mask).max().ToInt64() + 1;
        return new EpisodeBatch(
            Ids.index_select(0, rows).narrow(1, 0, width).MoveToOuterDisposeScope(),
            states.narrow(1, 0, response).clamp(max: width - 1).MoveToOuterDisposeScope(),
            Responses.index_select(0, rows).narrow(1, 0, response).MoveToOuterDisposeScope(),
            mask.narrow(1, 0, response).MoveToOuterDisposeScope());
    }

    /// <summary>What belongs to the response tokens of these episodes, which were selected from others.</summary>
    /// <param name="perToken">Of the others, (B, R).</param>
    /// <param name="rows">Which of the others these are, int64 (b).</param>
    /// <returns>(b, r), where r is the longest response of these.</returns>
    public Tensor Select(Tensor perToken, Tensor rows)
    {
        using var scope = NewDisposeScope();
        return perToken.index_select(0, rows).narrow(1, 0, Mask.size(1)).MoveToOuterDisposeScope();
    }

    /// <summary>Writes numbers of some episodes where they belong among those of all.</summary>
    /// <param name="perToken">Of all, (B, R).</param>
    /// <param name="rows">int64 (b).</param>
    /// <param name="part">Of these, (b, at most R).</param>
    public static void Put(Tensor perToken, Tensor rows, Tensor part)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        perToken.narrow(1, 0, part.size(1)).index_copy_(0, rows, part.detach());
    }

    /// <summary>The states that predict the real response tokens, (N, C). Only these reach the head, and no padding.</summary>
    public Tensor States(CausalLanguageModel model)
    {
        using var scope = NewDisposeScope();
        var hidden = model.Hidden(Ids).flatten(0, 1);                                         // (B·T, C)
        var rows = arange(Ids.size(0), device: Ids.device).unsqueeze(-1) * Ids.size(1);       // (B, 1)
        return hidden.index_select(0, Real(StatePositions + rows)).MoveToOuterDisposeScope();
    }

    /// <summary>Logits that predict the real response tokens, divided by the temperature, (N, V).</summary>
    public Tensor ResponseLogits(CausalLanguageModel model, double temperature)
    {
        using var scope = NewDisposeScope();
        var logits = model.Logits(States(model));
        return (temperature == 1 ? logits : logits / temperature).MoveToOuterDisposeScope();
    }

    /// <summary>What a model says of the real response tokens.</summary>
    /// <param name="model">The model.</param>
    /// <param name="states">Its states that predict them, (N, C).</param>
    /// <param name="temperature">Divides the logits.</param>
    public TokenPredictions Predict(CausalLanguageModel model, Tensor states, double temperature)
    {
        using var scope = NewDisposeScope();
        return model.Predict(states, Real(Responses), temperature).MoveToOuterDisposeScope();
    }

    /// <summary>log π of each response token, (B, R), 0 on padding.</summary>
    public Tensor LogProbs(CausalLanguageModel model, double temperature)
    {
        using var scope = NewDisposeScope();
        return Padded(Predict(model, States(model), temperature).LogProbs).MoveToOuterDisposeScope();
    }

    /// <summary>The value of each state in which a response token was drawn, (B, R), 0 on padding.</summary>
    public Tensor Values(ScalarGpt value)
    {
        using var scope = NewDisposeScope();
        return (value.Scores(Ids).gather(1, StatePositions) * Mask).MoveToOuterDisposeScope();
    }

    /// <summary>Numbers of the real response tokens, (N), each in its place, (B, R), 0 on padding.</summary>
    public Tensor Padded(Tensor ofRealTokens)
    {
        using var scope = NewDisposeScope();
        return zeros_like(Mask).flatten().index_copy(0, RealPlaces(), ofRealTokens).view_as(Mask).MoveToOuterDisposeScope();
    }

    /// <summary>(B, R) without the padding, (N).</summary>
    private Tensor Real(Tensor perToken)
    {
        using var scope = NewDisposeScope();
        return perToken.flatten().index_select(0, RealPlaces()).MoveToOuterDisposeScope();
    }

    /// <summary>Which of the B·R places are no padding, int64 (N).</summary>
    private Tensor RealPlaces()
    {
        using var scope = NewDisposeScope();
        return Mask.flatten().nonzero().flatten().MoveToOuterDisposeScope();
    }
}

/// <summary>What an update learns from: episodes, and what the models said of them before it. All (B, R).</summary>
/// <param name="Episodes">The episodes.</param>
/// <param name="LogProbs">log π_old, 0 on padding.</param>
/// <param name="Values">V_old, 0 on padding.</param>
/// <param name="Advantages">Whitened advantages, 0 on padding.</param>
/// <param name="Returns">Advantages before whitening + values.</param>
internal sealed record Rollout(EpisodeBatch Episodes, Tensor LogProbs, Tensor Values, Tensor Advantages, Tensor Returns)
{
    /// <summary>The pass that gave log-probabilities and values, for the first step to learn through; null where it is not kept.</summary>
    public PolicyPass? Pass { get; init; }

    /// <summary>Some of the episodes, only as wide as these are.</summary>
    /// <param name="rows">int64 (b).</param>
    public Rollout Select(Tensor rows)
    {
        var episodes = Episodes.Select(rows);
        return new(episodes, episodes.Select(LogProbs, rows), episodes.Select(Values, rows), episodes.Select(Advantages, rows),
            episodes.Select(Returns, rows));
    }
}

/// <summary>
/// What one forward pass says of episodes. An update whose first step learns from all episodes at once keeps the pass that evaluated them,
/// gradients and all: no weight has changed in between, so that step needs no pass of its own.
/// </summary>
/// <param name="Predictions">Of the real response tokens.</param>
/// <param name="LogProbs">log π (B, R), 0 on padding.</param>
/// <param name="Values">Of the states that the tokens were drawn in (B, R), 0 on padding; null where there is no value function.</param>
internal sealed record PolicyPass(TokenPredictions Predictions, Tensor LogProbs, Tensor? Values) : IDisposable
{
    /// <summary>Whether a step has learned through it. It cannot be used again.</summary>
    public bool IsSpent { get; private set; }

    /// <param name="episodes">The episodes.</param>
    /// <param name="policy">The policy.</param>
    /// <param name="temperature">Divides the logits.</param>
    /// <param name="value">The value function, perhaps on the policy's trunk, whose states then serve both; null for none.</param>
    public static PolicyPass Of(EpisodeBatch episodes, CausalLanguageModel policy, double temperature, ScalarGpt? value = null)
    {
        using var scope = NewDisposeScope();
        var states = episodes.States(policy);                                                 // (N, C)
        var predictions = episodes.Predict(policy, states, temperature);                      // (N)
        var values = value is null ? null
            : ReferenceEquals(value.Trunk, policy) ? episodes.Padded(value.Head(states)) : episodes.Values(value);
        return new PolicyPass(predictions, episodes.Padded(predictions.LogProbs), values).MoveToOuterDisposeScope();
    }

    public PolicyPass MoveToOuterDisposeScope() =>
        new(Predictions.MoveToOuterDisposeScope(), LogProbs.MoveToOuterDisposeScope(), Values?.MoveToOuterDisposeScope());

    public void Dispose()
    {
        IsSpent = true;
        Predictions.Dispose();
        LogProbs.Dispose();
        Values?.Dispose();
    }
}
