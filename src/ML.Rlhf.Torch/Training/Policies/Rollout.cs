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
/// longest episode, R = longest response.
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
        int rows = episodes.Count, width = episodes.Max(e => e.Prompt.Length + e.Response.Length),
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
                ids[i * width + prompt.Length + t] = tokens[i * response + t] = answer[t];
                states[i * response + t] = prompt.Length + t - 1; // everything before y_t has been seen, y_t has not
                mask[i * response + t] = 1;
            }
        }
        return new EpisodeBatch(
            tensor(ids, [rows, width], device: device), tensor(states, [rows, response], device: device),
            tensor(tokens, [rows, response], device: device), tensor(mask, [rows, response], device: device));
    }

    /// <summary>Some of the episodes.</summary>
    /// <param name="rows">int64 (b).</param>
    public EpisodeBatch Select(Tensor rows) =>
        new(Ids.index_select(0, rows), StatePositions.index_select(0, rows), Responses.index_select(0, rows), Mask.index_select(0, rows));

    /// <summary>The states that predict the response tokens, (B, R, C).</summary>
    public Tensor States(CausalLanguageModel model)
    {
        using var scope = NewDisposeScope();
        var hidden = model.Hidden(Ids);                                                       // (B, T, C)
        return hidden.gather(1, StatePositions.unsqueeze(-1).expand(-1, -1, hidden.size(2))).MoveToOuterDisposeScope();
    }

    /// <summary>Logits that predict the response tokens, divided by the temperature, (B, R, V).</summary>
    public static Tensor Logits(CausalLanguageModel model, Tensor states, double temperature)
    {
        using var scope = NewDisposeScope();
        var logits = model.Logits(states);
        return (temperature == 1 ? logits : logits / temperature).MoveToOuterDisposeScope();
    }

    /// <inheritdoc cref="Logits"/>
    public Tensor ResponseLogits(CausalLanguageModel model, double temperature)
    {
        using var scope = NewDisposeScope();
        return Logits(model, States(model), temperature).MoveToOuterDisposeScope();
    }

    /// <summary>The value of each state in which a response token was drawn, (B, R), 0 on padding.</summary>
    public Tensor Values(ScalarGpt value)
    {
        using var scope = NewDisposeScope();
        return (value.Scores(Ids).gather(1, StatePositions) * Mask).MoveToOuterDisposeScope();
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
    public Rollout Select(Tensor rows) => new(
        Episodes.Select(rows), LogProbs.index_select(0, rows), Values.index_select(0, rows),
        Advantages.index_select(0, rows), Returns.index_select(0, rows));
}
