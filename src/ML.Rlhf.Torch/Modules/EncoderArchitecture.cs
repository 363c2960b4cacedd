namespace ML.Rlhf;

/// <summary>Which published encoder a model is like: what its tensors are called in a checkpoint, and where its positions begin.</summary>
public enum EncoderFamily
{
    /// <summary>BERT (Devlin et al. 2019, arXiv 1810.04805).</summary>
    Bert,

    /// <summary>RoBERTa (Liu et al. 2019, arXiv 1907.11692): BERT's shape, with rows in its position table that no token has.</summary>
    Roberta,
}

/// <summary>The shape of an encoder (BERT, RoBERTa): learned positions, norms after the residual sums, and a tied head.</summary>
/// <remarks>
/// A preset is a starting point: <c>EncoderArchitecture.Micro with { ContextLength = 256 }</c>. The context holds the token before and
/// the token after a text, too.
/// </remarks>
public sealed record EncoderArchitecture : LanguageModelArchitecture
{
    /// <summary>Which published encoder it is like.</summary>
    /// <value><see cref="EncoderFamily.Bert"/> by default.</value>
    public EncoderFamily Family { get; init; }

    /// <summary>Attention heads per block.</summary>
    /// <value>At least 1, and a divisor of <see cref="LanguageModelArchitecture.Width"/>.</value>
    public required int Heads { get; init; }

    /// <summary>Numbers between the two layers of a feed-forward network ("intermediate size"); usually four times the width.</summary>
    /// <value>At least 1.</value>
    public required int FeedForwardWidth { get; init; }

    /// <summary>Kinds of segment that a token can belong to. This package only uses the first; checkpoints have more.</summary>
    /// <value>At least 1. 2 by default: BERT was also trained on pairs of sentences. RoBERTa has 1.</value>
    public int SegmentTypes { get; init; } = 2;

    /// <summary>What the layer norms add to the variance.</summary>
    /// <value>Above 0. 1e-12 by default, BERT's; RoBERTa has 1e-5.</value>
    public double NormEpsilon { get; init; } = 1e-12;

    /// <summary>The row of the position table that belongs to the first token.</summary>
    /// <value>0, the default, for BERT; at least 1 for RoBERTa, whose positions begin behind the id of its padding token: 2.</value>
    public int PositionOffset { get; init; }

    /// <summary>
    /// Whether there is the head that guesses hidden tokens. Checkpoints that were made to embed sentences often come without: such a model
    /// makes features, and nothing else.
    /// </summary>
    /// <value>True by default, and whenever a model is trained.</value>
    public bool MaskedLanguageModelHead { get; init; } = true;

    /// <summary>2 layers × 48, context 64: trains in seconds, for tests and first steps. 0.1 M parameters.</summary>
    public static EncoderArchitecture Nano { get; } = new()
    {
        Layers = 2, Heads = 3, Width = 48, FeedForwardWidth = 192, ContextLength = 64, VocabularySize = 512,
    };

    /// <summary>4 layers × 128, context 128: trains in minutes on two cores. 1 M parameters.</summary>
    public static EncoderArchitecture Micro { get; } = new()
    {
        Layers = 4, Heads = 4, Width = 128, FeedForwardWidth = 512, ContextLength = 128, VocabularySize = 1024,
    };

    /// <summary>6 layers × 192, context 256. 3.5 M parameters.</summary>
    public static EncoderArchitecture Mini { get; } = new()
    {
        Layers = 6, Heads = 6, Width = 192, FeedForwardWidth = 768, ContextLength = 256, VocabularySize = 4096,
    };

    /// <summary>BERT, base size, without capitals: 12 layers × 768, context 512. 110 M parameters (Devlin et al. 2019).</summary>
    public static EncoderArchitecture BertBase { get; } = new()
    {
        Layers = 12, Heads = 12, Width = 768, FeedForwardWidth = 3072, ContextLength = 512, VocabularySize = 30522,
    };

    /// <summary>BERT, large size, without capitals: 24 layers × 1,024, context 512. 335 M parameters (Devlin et al. 2019).</summary>
    public static EncoderArchitecture BertLarge { get; } = BertBase with { Layers = 24, Heads = 16, Width = 1024, FeedForwardWidth = 4096 };

    /// <summary>RoBERTa, base size: 12 layers × 768, context 512. 125 M parameters (Liu et al. 2019).</summary>
    public static EncoderArchitecture RobertaBase { get; } = BertBase with
    {
        Family = EncoderFamily.Roberta, VocabularySize = 50265, SegmentTypes = 1, NormEpsilon = 1e-5, PositionOffset = 2,
    };

    /// <summary>Trainable numbers of an encoder of this shape. The head shares the token embedding, and adds a layer and a bias.</summary>
    public override long ParameterCount
    {
        get
        {
            long width = Width;
            long block = 4 * width * width + 2 * width * FeedForwardWidth + 9 * width + FeedForwardWidth; // biases 5w + f, two norms 4w
            long embeddings = ((long)VocabularySize + PositionRows + SegmentTypes + 2) * width;
            long head = width * width + 3 * width + VocabularySize;
            return embeddings + Layers * block + (MaskedLanguageModelHead ? head : 0);
        }
    }

    /// <summary>Rows of the position table.</summary>
    internal int PositionRows => ContextLength + PositionOffset;

    private protected override void Check(OptionProblems problems)
    {
        base.Check(problems);
        problems.Require(Enum.IsDefined(Family), nameof(Family), Family, "Bert or Roberta");
        problems.Require(ContextLength != 2, nameof(ContextLength), ContextLength,
            "at least 3: a token, and one before and after the text");
        problems.Require(Heads >= 1, nameof(Heads), Heads, "at least 1");
        problems.Require(Width is >= 1 and <= MaximumWidth && Heads >= 1 && Width % Heads == 0, nameof(Width), Width,
            $"a positive multiple of {nameof(Heads)} ({Heads}), at most {MaximumWidth}");
        problems.Require(FeedForwardWidth is >= 1 and <= MaximumWidth, nameof(FeedForwardWidth), FeedForwardWidth,
            $"from 1 to {MaximumWidth}");
        problems.Require(SegmentTypes is >= 1 and <= MaximumTokens, nameof(SegmentTypes), SegmentTypes, $"from 1 to {MaximumTokens}");
        problems.Require(NormEpsilon > 0 && double.IsFinite(NormEpsilon), nameof(NormEpsilon), NormEpsilon, "a finite number above 0");
        if (Family == EncoderFamily.Bert)
            problems.Require(PositionOffset == 0, nameof(PositionOffset), PositionOffset, "0 for BERT");
        else
            problems.Require(PositionOffset is >= 1 and <= MaximumTokens, nameof(PositionOffset), PositionOffset,
                $"from 1 to {MaximumTokens} for RoBERTa");
        problems.Require(TiedHead, nameof(TiedHead), TiedHead, "true: the head of an encoder is its token embedding");
    }
}
