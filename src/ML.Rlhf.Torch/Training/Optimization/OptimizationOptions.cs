namespace ML.Rlhf;

/// <summary>How the learning rate goes from the end of the warm-up to the end of the run.</summary>
public enum LearningRateDecay
{
    /// <summary>Half a cosine, down to the minimum.</summary>
    Cosine,

    /// <summary>A straight line, down to the minimum.</summary>
    Linear,

    /// <summary>No decay.</summary>
    Constant,

    /// <summary>
    /// With one over the square root of the step: at n times the steps of the warm-up it is 1/√n of its height, however long the run is.
    /// There is no minimum (Vaswani et al. 2017, section 5.3).
    /// </summary>
    InverseSquareRoot,
}

/// <summary>Where Adam adds ε. m and v are the averages of the gradient and of its square, t is the step, from 1.</summary>
public enum AdamForm
{
    /// <summary>
    /// θ −= lr · m̂ / (√v̂ + ε), with m̂ = m/(1 − β₁ᵗ) and v̂ = v/(1 − β₂ᵗ): algorithm 1 of Kingma and Ba 2014 (arXiv 1412.6980).
    /// </summary>
    PyTorch,

    /// <summary>
    /// θ −= lr · √(1 − β₂ᵗ)/(1 − β₁ᵗ) · m / (√v + ε): the shorter form of their section 2, with ε beside the root before its
    /// correction. It is PyTorch's with ε/√(1 − β₂ᵗ) in the place of ε, and so takes smaller first steps. OpenAI's RLHF ran on it.
    /// </summary>
    TensorFlow,
}

/// <summary>What every trainer lets you choose about its optimiser, AdamW (Loshchilov and Hutter 2017), and its run.</summary>
public abstract record OptimizationOptions
{
    /// <summary>The learning rate after the warm-up.</summary>
    /// <value>Above 0. Each trainer has its own default.</value>
    public double LearningRate { get; init; }

    /// <summary>Steps over which the learning rate climbs in a straight line to <see cref="LearningRate"/>.</summary>
    /// <value>At least 0.</value>
    public int WarmupSteps { get; init; }

    /// <summary>How the learning rate falls after the warm-up.</summary>
    public LearningRateDecay LearningRateDecay { get; init; } = LearningRateDecay.Cosine;

    /// <summary>The learning rate towards the end, as a part of <see cref="LearningRate"/>.</summary>
    /// <value>In [0, 1]. 0.1 by default (Ouyang et al. 2022; nanoGPT).</value>
    public double MinimumLearningRateRatio { get; init; } = 0.1;

    /// <summary>AdamW's β₁, the memory of the gradient's mean.</summary>
    /// <value>In [0, 1). 0.9 by default.</value>
    public double Beta1 { get; init; } = 0.9;

    /// <summary>AdamW's β₂, the memory of the gradient's square.</summary>
    /// <value>In [0, 1). 0.95 by default, as GPT-3 and InstructGPT.</value>
    public double Beta2 { get; init; } = 0.95;

    /// <summary>AdamW's ε, which keeps its division finite.</summary>
    /// <value>Above 0. 1e-8 by default; PPO uses 1e-5.</value>
    public double Epsilon { get; init; } = 1e-8;

    /// <summary>
    /// Where ε stands. With a large ε, such as PPO's, the first steps differ: "The N implementation details of RLHF with PPO" saw 6.4
    /// times the approximate KL and 4.4 times the clip fraction in the first update with PyTorch's form.
    /// </summary>
    /// <value><see cref="AdamForm.PyTorch"/> by default, as all later codebases; <see cref="AdamForm.TensorFlow"/> to follow
    /// lm-human-preferences.</value>
    public AdamForm AdamForm { get; init; }

    /// <summary>Weight decay, applied to matrices and embeddings, never to biases and norms.</summary>
    /// <value>At least 0.</value>
    public double WeightDecay { get; init; }

    /// <summary>The gradient is scaled down to this L2 norm when it is longer.</summary>
    /// <value>Above 0; 1 by default. <see cref="double.PositiveInfinity"/> turns clipping off.</value>
    public double GradientClipping { get; init; } = 1;

    /// <summary>
    /// Rows per forward pass. Gradients of several such passes add up to one step, so a smaller number needs less memory and changes
    /// nothing else but rounding.
    /// </summary>
    /// <remarks>
    /// A GPT in bfloat16 takes 160 MB for the program, 16 bytes per parameter, and per token of a pass width × (24 × layers + 70) bytes
    /// and 2 bytes for each of at most 2,048 logits; in float32 it keeps about three times as much per token, and all logits.
    /// </remarks>
    /// <value>At least 1; null, the default, takes the whole batch at once, or in a few passes of similar length.</value>
    public int? MicroBatchSize { get; init; }

    /// <summary>
    /// Keeps only the input of each block for the backward pass, and computes the rest again there, one block at a time (Chen et al. 2016,
    /// arXiv 1604.06174). Of the bytes per token above, width × (4 × layers + 90) stay, and a step takes an eighth to a quarter longer.
    /// Without dropout the weights come out the same, bit for bit; with it, other activations are dropped.
    /// </summary>
    /// <value>False by default: small models have the memory. Only a GPT or a Llama has such blocks.</value>
    public bool ActivationCheckpointing { get; init; }

    /// <summary>
    /// What the model's products are computed in. Dropout, packed rows and adapters have no bfloat16 kernels and are computed in float32.
    /// </summary>
    /// <value>
    /// <see cref="Precision.Auto"/> by default: a GPT trains three times as fast on a processor that multiplies bfloat16 numbers, to the
    /// same loss within noise, and so does a reward model that scores for PPO, GRPO or RLOO. <see cref="Precision.Float32"/> gives weights
    /// that other processors give too, but for their last digits.
    /// </value>
    public Precision Precision { get; init; } = Precision.Auto;

    /// <summary>
    /// Seed of everything random in the run. The same seed gives the same weights, bit for bit, on a CPU with the same number of threads.
    /// Runs with dropout share libtorch's one generator: two of them at the same time in one process do not repeat.
    /// </summary>
    /// <value>Null, the default, takes the seed of the <c>MLContext</c>, or 0 where it has none.</value>
    public int? Seed { get; init; }

    /// <summary>Receives a record after each step (PPO, GRPO, RLOO: each update), on the training thread.</summary>
    public IProgress<TrainingProgress>? Progress { get; init; }

    /// <summary>
    /// Stops the run, before the next row is read, the next step, or the next token of a rollout; <see cref="WhenCanceled"/> says how.
    /// <c>MLContext.CancelExecution()</c> does the same once training has begun.
    /// </summary>
    public CancellationToken CancellationToken { get; init; }

    /// <summary>What to do when the run is stopped.</summary>
    /// <value><see cref="CancellationAction.Throw"/> by default.</value>
    public CancellationAction WhenCanceled { get; init; }

    /// <summary>
    /// A gradient with a NaN or an infinity changes nothing: its step is left out and counted
    /// (<see cref="TrainingProgress.SkippedSteps"/>). After more than so many in a row the run stops with an error. PPO, GRPO and RLOO
    /// act by <see cref="AlarmKind.NonFinite"/> instead.
    /// </summary>
    /// <value>At least 0, which stops at the first. 5 by default: one bad row is survived, a broken model is not.</value>
    public int MaxSkippedSteps { get; init; } = 5;

    /// <summary>Keeps the run on disk, so that it can be resumed.</summary>
    /// <value>Null, the default, keeps nothing.</value>
    public CheckpointOptions? Checkpoints { get; init; }

    /// <summary>Adds what is wrong with the options of this record. Options that derive from it add theirs.</summary>
    internal virtual void Check(OptionProblems problems)
    {
        problems.Require(LearningRate > 0 && double.IsFinite(LearningRate), nameof(LearningRate), LearningRate, "a finite number above 0");
        problems.Require(WarmupSteps >= 0, nameof(WarmupSteps), WarmupSteps, "at least 0");
        problems.Require(Enum.IsDefined(LearningRateDecay), nameof(LearningRateDecay), LearningRateDecay,
            "Cosine, Linear, Constant or InverseSquareRoot");
        problems.Require(MinimumLearningRateRatio is >= 0 and <= 1, nameof(MinimumLearningRateRatio), MinimumLearningRateRatio,
            "in [0, 1]");
        problems.Require(Beta1 is >= 0 and < 1, nameof(Beta1), Beta1, "in [0, 1)");
        problems.Require(Beta2 is >= 0 and < 1, nameof(Beta2), Beta2, "in [0, 1)");
        problems.Require(Epsilon > 0 && double.IsFinite(Epsilon), nameof(Epsilon), Epsilon, "a finite number above 0");
        problems.Require(Enum.IsDefined(AdamForm), nameof(AdamForm), AdamForm, "PyTorch or TensorFlow");
        problems.Require(WeightDecay >= 0 && double.IsFinite(WeightDecay), nameof(WeightDecay), WeightDecay,
            "a finite number of at least 0");
        problems.Require(GradientClipping > 0, nameof(GradientClipping), GradientClipping, "above 0 (infinity turns clipping off)");
        problems.Require(MicroBatchSize is null or >= 1, nameof(MicroBatchSize), MicroBatchSize, "at least 1, or null for the whole batch");
        problems.Require(Enum.IsDefined(Precision), nameof(Precision), Precision, "Auto, Float32 or BFloat16");
        problems.Require(Enum.IsDefined(WhenCanceled), nameof(WhenCanceled), WhenCanceled, "Throw or ReturnModel");
        problems.Require(MaxSkippedSteps >= 0, nameof(MaxSkippedSteps), MaxSkippedSteps, "at least 0");
        Checkpoints?.Check(problems);
    }

    /// <exception cref="ArgumentException">Values are out of their ranges; the message lists each one.</exception>
    internal void Validate()
    {
        var problems = new OptionProblems(GetType().Name);
        Check(problems);
        problems.Throw();
    }
}
