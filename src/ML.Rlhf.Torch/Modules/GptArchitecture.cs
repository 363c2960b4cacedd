namespace ML.Rlhf;

/// <summary>Where a block of a GPT has its layer norms.</summary>
public enum NormPlacement
{
    /// <summary>Before attention and before the feed-forward layer, and once more after the last block: GPT-2 and GPT-3.</summary>
    Before,

    /// <summary>After each of the two has been added to its input, and nowhere else: GPT-1 and the original transformer.</summary>
    After,
}

/// <summary>What bends the hidden numbers of a feed-forward layer.</summary>
public enum Activation
{
    /// <summary>GELU in its tanh form (Hendrycks and Gimpel 2016): GPT-1, GPT-2 and GPT-3, which the field calls "gelu_new".</summary>
    GeluTanh,

    /// <summary>GELU with the error function, x·Φ(x).</summary>
    Gelu,

    /// <summary>x where it is above 0, otherwise 0.</summary>
    Relu,
}

/// <summary>The shape of a GPT (GPT-1, GPT-2, GPT-3): learned positions, layer norms with biases, every head with keys of its own.</summary>
/// <remarks>
/// <para>
/// The presets below <see cref="Gpt2"/> follow the sizes of minGPT and nanoGPT. A preset is a starting point:
/// <c>GptArchitecture.Micro with { ContextLength = 256 }</c>.
/// </para>
/// <para>
/// GPT-3's presets are table 2.1 of Brown et al. 2020, with all attention dense; the paper's models alternate with locally banded
/// attention. In two rows the table's numbers do not multiply out; the presets say what they take instead.
/// </para>
/// </remarks>
public sealed record GptArchitecture : LanguageModelArchitecture
{
    /// <summary>Attention heads per block.</summary>
    /// <value>At least 1, and a divisor of <see cref="LanguageModelArchitecture.Width"/>.</value>
    public required int Heads { get; init; }

    /// <summary>Hidden numbers of a feed-forward layer ("n_inner").</summary>
    /// <value>At least 1; null, the default, is four times the width.</value>
    public int? FeedForwardWidth { get; init; }

    /// <summary>Where a block has its norms.</summary>
    /// <value>Before attention and feed-forward by default, as in GPT-2: deep models train without a long warm-up.</value>
    public NormPlacement Norms { get; init; }

    /// <summary>What bends the hidden numbers of a feed-forward layer.</summary>
    /// <value>GELU in its tanh form by default, as in all GPTs.</value>
    public Activation Activation { get; init; }

    /// <summary>What is added to a variance before its root is taken, in every norm.</summary>
    /// <value>Above 0. 1e-5 by default.</value>
    public double NormEpsilon { get; init; } = 1e-5;

    internal int HiddenWidth => FeedForwardWidth ?? 4 * Width;

    /// <summary>3 layers × 48, context 64: trains in seconds, for tests and first steps. 0.1 M parameters.</summary>
    public static GptArchitecture Nano { get; } = Shape(3, 3, 48, 64, 512);

    /// <summary>4 layers × 128, context 128: trains in minutes on two cores. 0.9 M parameters.</summary>
    public static GptArchitecture Micro { get; } = Shape(4, 4, 128, 128, 1024);

    /// <summary>6 layers × 192, context 256. 3.5 M parameters.</summary>
    public static GptArchitecture Mini { get; } = Shape(6, 6, 192, 256, 4096);

    /// <summary>6 layers × 384, context 256: nanoGPT's character model. 12 M parameters.</summary>
    public static GptArchitecture Small { get; } = Shape(6, 6, 384, 256, 4096);

    /// <summary>8 layers × 512, context 512. 29 M parameters.</summary>
    public static GptArchitecture Medium { get; } = Shape(8, 8, 512, 512, 8192);

    /// <summary>GPT-1: 12 layers × 768, context 512, norms after each sub-layer. 117 M parameters (Radford et al. 2018).</summary>
    public static GptArchitecture Gpt1 { get; } = Shape(12, 12, 768, 512, 40478) with { Norms = NormPlacement.After };

    /// <summary>GPT-2, smallest size: 12 layers × 768, context 1,024. 124 M parameters (Radford et al. 2019).</summary>
    public static GptArchitecture Gpt2 { get; } = Shape(12, 12, 768, 1024, 50257);

    /// <summary>GPT-2 medium: 24 layers × 1,024. 355 M parameters.</summary>
    public static GptArchitecture Gpt2Medium { get; } = Shape(24, 16, 1024, 1024, 50257);

    /// <summary>GPT-2 large: 36 layers × 1,280. 774 M parameters.</summary>
    public static GptArchitecture Gpt2Large { get; } = Shape(36, 20, 1280, 1024, 50257);

    /// <summary>GPT-2 XL, the one of the paper: 48 layers × 1,600. 1.56 G parameters.</summary>
    public static GptArchitecture Gpt2XL { get; } = Shape(48, 25, 1600, 1024, 50257);

    /// <summary>GPT-3 small: 12 layers × 768, context 2,048. 125 M parameters (Brown et al. 2020, table 2.1).</summary>
    public static GptArchitecture Gpt3Small { get; } = Shape(12, 12, 768, 2048, 50257);

    /// <summary>GPT-3 medium: 24 layers × 1,024. 356 M parameters.</summary>
    public static GptArchitecture Gpt3Medium { get; } = Shape(24, 16, 1024, 2048, 50257);

    /// <summary>GPT-3 large: 24 layers × 1,536. 760 M parameters.</summary>
    public static GptArchitecture Gpt3Large { get; } = Shape(24, 16, 1536, 2048, 50257);

    /// <summary>GPT-3 XL: 24 layers × 2,048. 1.3 G parameters. The table says 24 heads of 128, which is no 2,048; these are 16.</summary>
    public static GptArchitecture Gpt3XL { get; } = Shape(24, 16, 2048, 2048, 50257);

    /// <summary>GPT-3 2.7B: 32 layers × 2,560.</summary>
    public static GptArchitecture Gpt3_2_7B { get; } = Shape(32, 32, 2560, 2048, 50257);

    /// <summary>GPT-3 6.7B: 32 layers × 4,096.</summary>
    public static GptArchitecture Gpt3_6_7B { get; } = Shape(32, 32, 4096, 2048, 50257);

    /// <summary>GPT-3 13B: 40 layers. The table says a width of 5,140 and 40 heads of 128, which are 5,120; this is 5,120.</summary>
    public static GptArchitecture Gpt3_13B { get; } = Shape(40, 40, 5120, 2048, 50257);

    /// <summary>GPT-3: 96 layers × 12,288, 96 heads. 175 G parameters: 650 GB of weights.</summary>
    public static GptArchitecture Gpt3_175B { get; } = Shape(96, 96, 12288, 2048, 50257);

    /// <inheritdoc/>
    public override long ParameterCount
    {
        get
        {
            long width = Width, hidden = HiddenWidth;
            long block = 4 * width * width + 4 * width      // attention: four matrices with biases
                + 2 * width * hidden + hidden + width       // feed-forward: two
                + 4 * width;                                // two norms
            long embeddings = ((TiedHead ? 1L : 2L) * VocabularySize + ContextLength) * width;
            return embeddings + Layers * block + (Norms == NormPlacement.Before ? 2 * width : 0);
        }
    }

    private protected override void Check(OptionProblems problems)
    {
        base.Check(problems);
        problems.Require(Heads >= 1, nameof(Heads), Heads, "at least 1");
        problems.Require(Width is >= 1 and <= MaximumWidth && Heads >= 1 && Width % Heads == 0, nameof(Width), Width,
            $"a positive multiple of {nameof(Heads)} ({Heads}), at most {MaximumWidth}");
        problems.Require(FeedForwardWidth is null or (>= 1 and <= MaximumWidth), nameof(FeedForwardWidth), FeedForwardWidth,
            $"null or from 1 to {MaximumWidth}");
        problems.Require(Enum.IsDefined(Norms), nameof(Norms), Norms, $"one of {string.Join(", ", Enum.GetNames<NormPlacement>())}");
        problems.Require(Enum.IsDefined(Activation), nameof(Activation), Activation,
            $"one of {string.Join(", ", Enum.GetNames<Activation>())}");
        problems.Require(NormEpsilon > 0 && double.IsFinite(NormEpsilon), nameof(NormEpsilon), NormEpsilon, "finite and above 0");
    }

    private static GptArchitecture Shape(int layers, int heads, int width, int context, int vocabulary) =>
        new() { Layers = layers, Heads = heads, Width = width, ContextLength = context, VocabularySize = vocabulary };
}
