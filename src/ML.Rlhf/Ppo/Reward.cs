using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;

namespace ML.Rlhf;

/// <summary>A response to a prompt, as a reward transformer reads it.</summary>
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

/// <summary>What scores the episodes of PPO.</summary>
internal abstract class Reward
{
    /// <summary>Makes the scorer of a run.</summary>
    /// <param name="policy">The model that answers.</param>
    /// <param name="options">The run's options.</param>
    public abstract EpisodeScorer CreateScorer(TextGenerationTransformer policy, PpoOptions options);

    /// <summary>The network that the value function starts from; null starts it from the policy, with a head of zeros.</summary>
    public virtual ScalarGpt? ValueSource(TextGenerationTransformer policy) => null;
}

/// <summary>A C# function of prompt and response.</summary>
internal sealed class FunctionReward(Func<string, string, float> function) : Reward
{
    public override EpisodeScorer CreateScorer(TextGenerationTransformer policy, PpoOptions options) => episodes =>
        [.. episodes.Select(e => (double)function(policy.Tokenizer.Decode(e.Prompt), policy.Tokenizer.Decode(e.Response)))];
}

/// <summary>A reward model of this pack with the policy's tokenizer: it scores the very tokens that were sampled.</summary>
internal sealed class ModelReward(RewardTransformer reward) : Reward
{
    public override EpisodeScorer CreateScorer(TextGenerationTransformer policy, PpoOptions options)
    {
        if (reward.Architecture.ContextLength < policy.Architecture.ContextLength)
            throw new ArgumentException(
                $"The reward model's context is {reward.Architecture.ContextLength} tokens, shorter than the policy's " +
                $"{policy.Architecture.ContextLength}. Train the reward model from the same model as the policy.");
        return episodes =>
        {
            var sequences = new TokenSequences();
            foreach (var episode in episodes)
                sequences.Add([.. episode.Prompt, .. episode.Response]);
            return RewardScoring.Score(reward.Scalar, sequences);
        };
    }

    public override ScalarGpt? ValueSource(TextGenerationTransformer policy) => reward.Scalar;
}

/// <summary>Any fitted transformer that reads text and gives a number.</summary>
internal sealed class TransformerReward(MLContext ml, ITransformer reward) : Reward
{
    public override EpisodeScorer CreateScorer(TextGenerationTransformer policy, PpoOptions options)
    {
        RequireScore(options.ScoreColumnName);
        return episodes =>
        {
            var rows = episodes.Select(e => (Prompt: policy.Tokenizer.Decode(e.Prompt), Completion: policy.Tokenizer.Decode(e.Response)));
            var scored = reward.Transform(ml.Data.LoadFromEnumerable(
                rows.Select(r => new RewardInput { Prompt = r.Prompt, Completion = r.Completion, Text = r.Completion }).ToArray()));
            return ReadScores(scored, scored.Schema[options.ScoreColumnName]);
        };
    }

    /// <summary>Reports at the start, and not after the first rollout, what does not fit.</summary>
    private void RequireScore(string scoreColumn)
    {
        IHostEnvironment environment = ml;
        if (!reward.IsRowToRowMapper)
            throw environment.Process(new ArgumentException(
                "The reward transformer drops or adds rows, but PPO needs one score for each response. Leave out steps that filter rows."));
        DataViewSchema schema;
        try
        {
            schema = reward.GetOutputSchema(ml.Data.LoadFromEnumerable(Array.Empty<RewardInput>()).Schema);
        }
        catch (ArgumentException e)
        {
            throw environment.Process(new ArgumentException(
                $"The reward transformer does not fit the columns that PPO gives it (Prompt, Completion, and Text, which is the " +
                $"completion): {e.Message} Put ml.Transforms.CopyColumns in front of it, or leave out the steps that need a label.", e));
        }
        if (schema.GetColumnOrNull(scoreColumn) is not { } column)
            throw environment.Process(new ArgumentException(
                $"The reward transformer gives no column '{scoreColumn}', but " +
                $"{string.Join(", ", schema.Select(c => $"'{c.Name}'").Distinct())}. " +
                $"Set PpoOptions.{nameof(PpoOptions.ScoreColumnName)} to the one that holds the score."));
        if (column.Type.RawType != typeof(float) && column.Type.RawType != typeof(double) && column.Type.RawType != typeof(bool))
            throw environment.Process(new ArgumentException(
                $"Column '{scoreColumn}' of the reward transformer is {column.Type}, but PPO needs a single number: Single, Double or " +
                $"Boolean. Set PpoOptions.{nameof(PpoOptions.ScoreColumnName)} to another column, or convert it with " +
                "ml.Transforms.Conversion.ConvertType."));
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
