using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;
using ML.Rlhf.Bridge;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;

namespace ML.Rlhf;

/// <summary>A response to a prompt, as a fitted transformer reads it.</summary>
/// <remarks>A pipeline that was fitted on other column names meets it through <c>ml.Transforms.CopyColumns</c>.</remarks>
internal sealed class RewardInput
{
    /// <summary>The prompt.</summary>
    public string Prompt { get; set; } = "";

    /// <summary>The response.</summary>
    public string Completion { get; set; } = "";

    /// <summary>The response under the name that text pipelines use.</summary>
    public string Text { get; set; } = "";
}

/// <summary>
/// What scores a response to a prompt: a fitted transformer, a function, or a weighted sum of several. Made by <c>ml.Rlhf().Rewards</c>.
/// </summary>
public abstract class Reward
{
    private protected Reward()
    {
    }

    /// <summary>Makes the scorer of a run.</summary>
    /// <param name="policy">The model that answers.</param>
    /// <param name="precision">What a reward model of this pack computes in where it has kernels for it.</param>
    /// <exception cref="ArgumentException">The reward does not fit the model or the columns.</exception>
    internal abstract EpisodeScorer CreateScorer(
        TextGenerationTransformer policy, Precision precision = Precision.Float32);

    /// <summary>A network that a value function starts from; null starts it from the policy, with a head of zeros.</summary>
    /// <param name="policy">The model that answers.</param>
    /// <param name="copyTrunk">Makes the trunk that will be trained from the one that there is.</param>
    /// <param name="weight">What the reward is multiplied with: the network gives the product.</param>
    /// <returns>A new network, which belongs to the caller.</returns>
    internal virtual ScalarGpt? CreateValueFunction(
        TextGenerationTransformer policy, Func<CausalLanguageModel, CausalLanguageModel> copyTrunk, double weight = 1) => null;

    /// <summary>
    /// Those of the reward models of this pack in it: a run cannot be resumed with others. What else scores is not known.
    /// </summary>
    internal virtual IEnumerable<string> Fingerprints => [];
}

/// <summary>A C# function of prompt and response.</summary>
internal sealed class FunctionReward(Func<string, string, float> function) : Reward
{
    internal override EpisodeScorer CreateScorer(
        TextGenerationTransformer policy, Precision precision = Precision.Float32) => episodes =>
        [.. episodes.Select(e => (double)function(policy.Tokenizer.Decode(e.Prompt), policy.Tokenizer.Decode(e.Response)))];
}

/// <summary>Σ weight·score.</summary>
internal sealed class SumReward(IReadOnlyList<(Reward Reward, double Weight)> parts) : Reward
{
    internal override EpisodeScorer CreateScorer(
        TextGenerationTransformer policy, Precision precision = Precision.Float32)
    {
        var scorers = parts.Select(part => (Score: part.Reward.CreateScorer(policy, precision), part.Weight)).ToArray();
        return episodes =>
        {
            var sums = new double[episodes.Count];
            foreach (var (score, weight) in scorers)
            {
                double[] scores = score(episodes);
                EpisodeScores.Require(scores, episodes.Count);
                for (int i = 0; i < sums.Length; i++)
                    sums[i] += weight * scores[i];
            }
            return sums;
        };
    }

    internal override IEnumerable<string> Fingerprints => parts.SelectMany(
        part => part.Reward.Fingerprints, (part, fingerprint) => FormattableString.Invariant($"{part.Weight}·{fingerprint}"));

    /// <summary>That of the heaviest part which has one.</summary>
    internal override ScalarGpt? CreateValueFunction(
        TextGenerationTransformer policy, Func<CausalLanguageModel, CausalLanguageModel> copyTrunk, double weight = 1) => parts
        .OrderByDescending(part => Math.Abs(part.Weight))
        .Select(part => part.Reward.CreateValueFunction(policy, copyTrunk, weight * part.Weight))
        .FirstOrDefault(network => network is not null);
}

/// <summary>A reward model of this pack, or any fitted transformer that reads text and gives a number.</summary>
internal sealed class TransformerReward(IHostEnvironment environment, ITransformer reward, string scoreColumn) : Reward
{
    internal override EpisodeScorer CreateScorer(
        TextGenerationTransformer policy, Precision precision = Precision.Float32) =>
        reward is not RewardTransformer own ? ScoreTexts(policy)
        : own.Tokenizer.Equals(policy.Tokenizer) ? ScoreTokens(own, policy, precision)
        : ScoreNewTokens(own, policy, precision);

    internal override ScalarGpt? CreateValueFunction(
        TextGenerationTransformer policy, Func<CausalLanguageModel, CausalLanguageModel> copyTrunk, double weight = 1) =>
        reward is RewardTransformer own && own.Tokenizer.Equals(policy.Tokenizer)
            ? own.Use(network => network.CloneAsValueFunction(copyTrunk, weight))
            : null;

    internal override IEnumerable<string> Fingerprints =>
        reward is RewardTransformer own ? [own.Use(IdentityOf)] : [];

    private static string IdentityOf(ScalarGpt network) =>
        FormattableString.Invariant($"{network.Gain:R} {network.Bias:R} {Fingerprint.Of([network])}");

    /// <summary>A reward model of this pack with the policy's tokenizer scores the very tokens that were sampled.</summary>
    private static EpisodeScorer ScoreTokens(RewardTransformer own, TextGenerationTransformer policy, Precision precision)
    {
        if (own.Architecture.ContextLength < policy.Architecture.ContextLength)
            throw new ArgumentException(
                $"The reward model's context is {own.Architecture.ContextLength} tokens, shorter than the policy's " +
                $"{policy.Architecture.ContextLength}. Train the reward model from the same model as the policy.");
        return episodes =>
        {
            var sequences = new TokenSequences();
            foreach (var episode in episodes)
                sequences.Add([.. episode.Prompt, .. episode.Response]);
            return own.Use(network => RewardScoring.Score(network, sequences, precision));
        };
    }

    /// <summary>
    /// One with another tokenizer scores the same texts, in its own tokens. It sees an end where the policy ended, as the one above does.
    /// </summary>
    private static EpisodeScorer ScoreNewTokens(
        RewardTransformer own, TextGenerationTransformer policy, Precision precision) => episodes =>
    {
        var sequences = new TokenSequences();
        foreach (var episode in episodes)
            sequences.Add(own.Encode(policy.Tokenizer.Decode(episode.Prompt), policy.Tokenizer.Decode(episode.Response), episode.Ended));
        return own.Use(network => RewardScoring.Score(network, sequences, precision));
    };

    private EpisodeScorer ScoreTexts(TextGenerationTransformer policy)
    {
        RequireScore();
        return episodes =>
        {
            var rows = episodes.Select(e => (Prompt: policy.Tokenizer.Decode(e.Prompt), Completion: policy.Tokenizer.Decode(e.Response)));
            var scored = reward.Transform(InMemoryData.Of(
                environment,
                rows.Select(r => new RewardInput { Prompt = r.Prompt, Completion = r.Completion, Text = r.Completion }).ToArray()));
            return ReadScores(scored, scored.Schema[scoreColumn]);
        };
    }

    /// <summary>Reports at the start, and not after the first rollout, what does not fit.</summary>
    private void RequireScore()
    {
        const string Fix = "Name the column that holds the score: ml.Rlhf().Rewards.FromTransformer(reward, \"…\")";
        if (!reward.IsRowToRowMapper)
            throw environment.Process(new ArgumentException(
                "The reward transformer drops or adds rows, but each response needs one score. Leave out steps that filter rows."));
        DataViewSchema schema;
        try
        {
            schema = reward.GetOutputSchema(InMemoryData.Of(environment, Array.Empty<RewardInput>()).Schema);
        }
        catch (ArgumentException e)
        {
            throw environment.Process(new ArgumentException(
                $"The reward transformer does not fit the columns that it is given (Prompt, Completion, and Text, which is the " +
                $"completion): {e.Message} Put ml.Transforms.CopyColumns in front of it, or leave out the steps that need a label.", e));
        }
        if (schema.GetColumnOrNull(scoreColumn) is not { } column)
            throw environment.Process(new ArgumentException(
                $"The reward transformer gives no column '{scoreColumn}', but " +
                $"{string.Join(", ", schema.Select(c => $"'{c.Name}'").Distinct())}. {Fix}."));
        if (column.Type.RawType != typeof(float) && column.Type.RawType != typeof(double) && column.Type.RawType != typeof(bool))
            throw environment.Process(new ArgumentException(
                $"Column '{scoreColumn}' of the reward transformer is {column.Type}, but a score is a single number: Single, Double or " +
                $"Boolean. {Fix}, or convert it with ml.Transforms.Conversion.ConvertType."));
    }

    private static double[] ReadScores(IDataView scored, DataViewSchema.Column column)
    {
        if (column.Type.RawType == typeof(float))
            return [.. scored.GetColumn<float>(column).Select(score => (double)score)];
        if (column.Type.RawType == typeof(double))
            return [.. scored.GetColumn<double>(column)];
        return [.. scored.GetColumn<bool>(column).Select(score => score ? 1.0 : 0.0)];
    }
}
