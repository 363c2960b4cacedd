namespace ML.Rlhf;

/// <summary>How completions are drawn from a language model.</summary>
/// <remarks>
/// Where several options are set, they act in this order, which is that of Hugging Face's transformers, as are their names:
/// <see cref="RepetitionPenalty"/>, <see cref="NoRepeatNgramSize"/>, <see cref="MinNewTokens"/>; then, except at temperature 0,
/// <see cref="Temperature"/>, <see cref="TopK"/>, <see cref="TopP"/>, <see cref="MinP"/>, <see cref="TypicalP"/>,
/// <see cref="EpsilonCutoff"/>. Each sees what the ones before it left.
/// </remarks>
public sealed record SamplingOptions
{
    /// <summary>The most tokens to add to a prompt. Fewer come where the model says it is done, or where its context ends.</summary>
    /// <value>At least 1. 64 by default, a sentence or two.</value>
    public int MaxNewTokens { get; init; } = 64;

    /// <summary>Divides the logits: below 1 sharpens the distribution, above 1 flattens it, 0 always takes the likeliest token.</summary>
    /// <value>0, or at least 0.001. 1 by default: the model as it was trained.</value>
    public float Temperature { get; init; } = 1;

    /// <summary>Draws from the k likeliest tokens only.</summary>
    /// <value>At least 0; 0, the default, draws from all.</value>
    public int TopK { get; init; }

    /// <summary>
    /// Draws from the smallest set of tokens whose probabilities reach this sum (nucleus sampling, Holtzman et al. 2019).
    /// </summary>
    /// <value>In (0, 1]; 1, the default, draws from all.</value>
    public float TopP { get; init; } = 1;

    /// <summary>
    /// Draws from tokens only that have at least this part of the likeliest token's probability: few where the model is sure, many
    /// where it is not (min-p, Nguyen et al. 2024, arXiv 2407.01082).
    /// </summary>
    /// <value>In [0, 1]; 0, the default, draws from all. 0.05 to 0.1 is usual.</value>
    public float MinP { get; init; }

    /// <summary>
    /// Draws from the smallest set of typical tokens whose probabilities reach this sum. A token is the more typical the closer its
    /// −ln p is to the entropy (locally typical sampling, Meister et al. 2022, arXiv 2202.00666).
    /// </summary>
    /// <value>In (0, 1]; 1, the default, draws from all. The paper uses 0.2 to 0.95.</value>
    public float TypicalP { get; init; } = 1;

    /// <summary>
    /// Leaves out tokens whose probability is below this number, but never the likeliest one (Hewitt et al. 2022, arXiv 2210.15191).
    /// </summary>
    /// <value>In [0, 1); 0, the default, draws from all. The paper uses 3e-4 to 9e-4.</value>
    public float EpsilonCutoff { get; init; }

    /// <summary>
    /// Makes tokens that the prompt or the completion has already less likely: divides their logit where it is above 0, and multiplies
    /// it where it is below (Keskar et al. 2019, arXiv 1909.05858). A token is penalised once, however often it occurs. Below 1 it
    /// rewards repetition.
    /// </summary>
    /// <value>From 0.001 to 1000; 1, the default, changes nothing. The paper uses 1.2.</value>
    public float RepetitionPenalty { get; init; } = 1;

    /// <summary>
    /// No sequence of this many tokens occurs twice in prompt and completion together: the token that would complete a second one is
    /// left out (Paulus et al. 2017, arXiv 1705.04304, with 3). Where that would leave no token at all, it is not applied.
    /// </summary>
    /// <value>At least 0; 0, the default, allows all repetition.</value>
    public int NoRepeatNgramSize { get; init; }

    /// <summary>The end token is not drawn before a completion has this many tokens.</summary>
    /// <value>At least 0 and at most <see cref="MaxNewTokens"/>; 0, the default, lets the model end at once.</value>
    public int MinNewTokens { get; init; }

    /// <summary>
    /// The seed. A prompt gets the same completion with the same seed wherever it stands in the data; another seed gives another
    /// completion.
    /// </summary>
    public int Seed { get; init; }

    /// <summary>What to do with a prompt that leaves no room for a new token: true keeps its end, false reports it.</summary>
    /// <value>False by default: losing text silently is worse than an error.</value>
    public bool TruncatePrompts { get; init; }

    /// <summary>
    /// What the model's products are computed in. In training, the run's own precision holds: see
    /// <see cref="OptimizationOptions.Precision"/>.
    /// </summary>
    /// <value>
    /// <see cref="Precision.Float32"/> by default: completions are those of other libraries. With <see cref="Precision.BFloat16"/> the
    /// weights are packed once per call into half the memory, and a token comes two to four times as fast.
    /// </value>
    public Precision Precision { get; init; } = Precision.Float32;

    /// <summary>Below it, logits divided by the temperature leave float32.</summary>
    internal const float MinimumTemperature = 0.001f;

    /// <summary>Whether the next token depends on the tokens so far in other ways than through the model.</summary>
    internal bool ConstrainsTokens => RepetitionPenalty != 1 || NoRepeatNgramSize > 0 || MinNewTokens > 0;

    /// <summary>
    /// The options with which a token is drawn from another distribution than softmax(logits / temperature), by name; empty without
    /// any. The log-probabilities that losses and divergences are made of are then not those of what was drawn.
    /// </summary>
    internal IReadOnlyList<string> Alterations
    {
        get
        {
            (string Name, bool IsOn)[] options =
            [
                (nameof(RepetitionPenalty), RepetitionPenalty != 1), (nameof(NoRepeatNgramSize), NoRepeatNgramSize > 0),
                (nameof(MinNewTokens), MinNewTokens > 0), ($"{nameof(Temperature)} 0", Temperature == 0), (nameof(TopK), TopK > 0),
                (nameof(TopP), TopP < 1), (nameof(MinP), MinP > 0), (nameof(TypicalP), TypicalP < 1),
                (nameof(EpsilonCutoff), EpsilonCutoff > 0),
            ];
            return [.. options.Where(o => o.IsOn).Select(o => o.Name)];
        }
    }

    /// <exception cref="ArgumentException">A value is out of its range; the message lists each one.</exception>
    internal void Validate()
    {
        var problems = new OptionProblems(nameof(SamplingOptions));
        problems.Require(MaxNewTokens >= 1, nameof(MaxNewTokens), MaxNewTokens, "at least 1");
        problems.Require(Temperature == 0 || Temperature >= MinimumTemperature && float.IsFinite(Temperature),
            nameof(Temperature), Temperature, $"0 (always the likeliest token), or finite and at least {MinimumTemperature}");
        problems.Require(TopK >= 0, nameof(TopK), TopK, "at least 0 (0 draws from all tokens)");
        problems.Require(TopP is > 0 and <= 1, nameof(TopP), TopP, "above 0 and at most 1");
        problems.Require(MinP is >= 0 and <= 1, nameof(MinP), MinP, "in [0, 1] (0 draws from all tokens)");
        problems.Require(TypicalP is > 0 and <= 1, nameof(TypicalP), TypicalP, "above 0 and at most 1");
        problems.Require(EpsilonCutoff is >= 0 and < 1, nameof(EpsilonCutoff), EpsilonCutoff, "in [0, 1) (0 draws from all tokens)");
        problems.Require(RepetitionPenalty is >= 0.001f and <= 1000, nameof(RepetitionPenalty), RepetitionPenalty,
            "from 0.001 to 1000 (1 changes nothing)");
        problems.Require(NoRepeatNgramSize >= 0, nameof(NoRepeatNgramSize), NoRepeatNgramSize, "at least 0 (0 allows all repetition)");
        problems.Require(MinNewTokens >= 0 && MinNewTokens <= Math.Max(MaxNewTokens, 0), nameof(MinNewTokens), MinNewTokens,
            $"at least 0 and at most {nameof(MaxNewTokens)} ({MaxNewTokens})");
        problems.Require(Enum.IsDefined(Precision), nameof(Precision), Precision, string.Join(", ", Enum.GetNames<Precision>()));
        problems.Throw();
    }
}
