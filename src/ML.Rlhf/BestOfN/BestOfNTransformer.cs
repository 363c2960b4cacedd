using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;
using ML.Rlhf;
using ML.Rlhf.Bridge;
using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Training;

[assembly: ModelComponent(typeof(BestOfNTransformer))]

namespace ML.Rlhf;

/// <summary>
/// Answers a prompt n times and keeps the answer that a reward scores highest: alignment without training, at n times the cost of an
/// answer. It adds the answer and its score. Made by <see cref="TransformCatalog.BestOfN"/>.
/// </summary>
/// <remarks>
/// <para>
/// Lazy: the models run when an answer or a score is asked for, once for both. A prompt gets the same answer wherever it stands in the
/// data; the first of the n is the policy's own answer, so n = 1 is the policy, with a score.
/// </para>
/// <para>
/// An answer is scored as a trainer scores it: in the tokens that were drawn, without an end token where the policy did not end.
/// </para>
/// <para>Saved by <c>ml.Model.Save</c>, policy and reward included, and loaded by <c>ml.Model.Load</c>.</para>
/// </remarks>
public sealed class BestOfNTransformer : ITransformer, IDisposable, IModelComponent<BestOfNTransformer>
{
    private const int AnswersPerBatch = 64;

    /// <summary>In a file; nobody can wait for so many answers.</summary>
    private const int MaximumN = 1_000_000;

    private readonly IHostEnvironment _environment;
    private readonly TextGenerationTransformer _policy;
    private readonly ITransformer _reward;
    private readonly bool _ownsReward;
    private readonly EpisodeScorer _score;

    /// <param name="environment">Where errors go through.</param>
    /// <param name="policy">Becomes this transformer's own.</param>
    /// <param name="reward">A fitted transformer with a score column.</param>
    /// <param name="ownsReward">Whether the reward becomes this transformer's own, too.</param>
    /// <param name="n">Answers to a prompt.</param>
    /// <param name="scoreColumnName">The reward's column, and the column that is added.</param>
    private BestOfNTransformer(
        IHostEnvironment environment, TextGenerationTransformer policy, ITransformer reward, bool ownsReward, int n, string scoreColumnName)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(n, 1);
        _environment = environment;
        _policy = policy;
        _reward = reward;
        _ownsReward = ownsReward;
        _score = new TransformerReward(environment, reward, scoreColumnName).CreateScorer(policy);
        N = n;
        ScoreColumnName = scoreColumnName;
    }

    internal static BestOfNTransformer Create(
        IHostEnvironment environment, TextGenerationTransformer policy, ITransformer reward, int n, string scoreColumnName)
    {
        RequireVariety(environment, policy, n);
        var ownPolicy = policy.WithSampling(policy.Sampling);
        var ownReward = (reward as RewardTransformer)?.Share();
        try
        {
            return new BestOfNTransformer(environment, ownPolicy, ownReward ?? reward, ownReward is not null, n, scoreColumnName);
        }
        catch
        {
            ownPolicy.Dispose();
            ownReward?.Dispose();
            throw;
        }
    }

    /// <summary>n answers of a policy that always takes the likeliest token are one.</summary>
    internal static void RequireVariety(IHostEnvironment environment, TextGenerationTransformer policy, int n)
    {
        if (n > 1 && policy.Sampling.Temperature == 0)
            throw environment.Process(new ArgumentException(
                $"The policy samples with temperature 0, so all {n} answers to a prompt would be the same. Pass " +
                "policy.WithSampling(new SamplingOptions { … }) with a temperature above 0.", nameof(policy)));
    }

    /// <summary>Answers to a prompt, of which the best is kept.</summary>
    public int N { get; }

    /// <summary>
    /// How far this policy is from the one that it draws from: ln n − (n − 1)/n, in nats. Where the same answer or score can be drawn
    /// twice, the divergence is at most this.
    /// </summary>
    public double Kl => BestOfN.KlBound(N);

    /// <summary>The text column that is answered: the policy's.</summary>
    public string PromptColumnName => _policy.PromptColumnName;

    /// <summary>The text column of best answers that is added: the policy's.</summary>
    public string CompletionColumnName => _policy.CompletionColumnName;

    /// <summary>The column of their scores that is added.</summary>
    public string ScoreColumnName { get; }

    /// <summary>The best of n answers to a prompt.</summary>
    /// <param name="prompt">Any text.</param>
    /// <param name="cancellationToken">Stops before the next token.</param>
    /// <returns>The answer, without the prompt, and its score.</returns>
    /// <exception cref="ArgumentException">The prompt fills the model's context, and <see cref="SamplingOptions.TruncatePrompts"/> is
    /// false.</exception>
    /// <exception cref="InvalidOperationException">The reward gave a number that is not finite.</exception>
    public (string Completion, float Score) Generate(string prompt, CancellationToken cancellationToken = default) =>
        Generate([prompt], cancellationToken)[0];

    /// <summary>The best of n answers to each of several prompts.</summary>
    /// <inheritdoc cref="Generate(string, CancellationToken)"/>
    /// <param name="prompts">Any texts.</param>
    /// <param name="cancellationToken">Stops before the next token.</param>
    /// <returns>The answers, without the prompts, and their scores, in the order of the prompts.</returns>
    public IReadOnlyList<(string Completion, float Score)> Generate(
        IReadOnlyList<string> prompts, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(prompts);
        var answers = _policy.SampleEpisodes(prompts, N, cancellationToken);
        double[] scores = EpisodeScores.Require(_score(answers), answers.Length);
        return [.. Enumerable.Range(0, prompts.Count).Select(prompt =>
        {
            int best = Enumerable.Range(prompt * N, N).MaxBy(i => scores[i]); // the first of equals
            return (_policy.Tokenizer.Decode(answers[best].Response), (float)scores[best]);
        })];
    }

    /// <summary>True: a row of the output needs one row of the input.</summary>
    public bool IsRowToRowMapper => true;

    /// <summary>The columns of the input, the completion and the score.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    public DataViewSchema GetOutputSchema(DataViewSchema inputSchema) => Columns(inputSchema).Map(inputSchema).OutputSchema;

    /// <summary>The input with the completion and the score; the models run when one of them is read.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    public IDataView Transform(IDataView input)
    {
        ArgumentNullException.ThrowIfNull(input);
        return Columns(input.Schema).AddTo(input);
    }

    /// <summary>The mapping for single rows, which a prediction engine uses.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    public IRowToRowMapper GetRowToRowMapper(DataViewSchema inputSchema) => Columns(inputSchema).Map(inputSchema);

    private BatchedColumns<(string Completion, float Score)> Columns(DataViewSchema inputSchema)
    {
        ArgumentNullException.ThrowIfNull(inputSchema);
        TextColumns.RequireText(_environment, inputSchema, "prompt", PromptColumnName);
        return new([PromptColumnName], Math.Max(1, AnswersPerBatch / N), rows => Generate([.. rows.Select(row => row[0])]),
            ComputedColumn<(string Completion, float Score)>.Of(
                CompletionColumnName, TextDataViewType.Instance, best => best.Completion.AsMemory()),
            ComputedColumn<(string Completion, float Score)>.Of(ScoreColumnName, NumberDataViewType.Single, best => best.Score));
    }

    /// <summary>
    /// Frees the weights, unless other transformers share them. A reward that is no <see cref="RewardTransformer"/> stays the caller's.
    /// </summary>
    public void Dispose()
    {
        _policy.Dispose();
        if (_ownsReward)
            (_reward as IDisposable)?.Dispose();
    }

    static string IModelComponent<BestOfNTransformer>.Id => "BestOfN";

    static int IModelComponent<BestOfNTransformer>.Version => 1;

    void ICanSaveModel.Save(ModelSaveContext ctx) => ModelStore.Save(ctx, this);

    void IModelComponent<BestOfNTransformer>.Save(ModelWriter writer)
    {
        writer.Main.Write(N);
        writer.Main.Write(ScoreColumnName);
        writer.WriteModel("Policy", _policy);
        writer.WriteModel("Reward", _reward);
    }

    static BestOfNTransformer IModelComponent<BestOfNTransformer>.Load(IHostEnvironment env, ModelReader reader)
    {
        int n = reader.Main.ReadInt32();
        if (n > MaximumN)
            throw new FormatException(
                $"The model is the best of {n}, and at most {MaximumN} are read. The file is damaged; save the model again.");
        string scoreColumn = reader.Main.ReadString();
        ITransformer? policy = null, reward = null;
        try
        {
            policy = reader.ReadModel("Policy");
            reward = reader.ReadModel("Reward");
            return new BestOfNTransformer(
                env, policy as TextGenerationTransformer ?? throw new FormatException(
                    $"The policy of a best-of-n in this file is a {policy.GetType().Name}. The file is damaged; save the model again."),
                reward, ownsReward: true, n, scoreColumn);
        }
        catch
        {
            (policy as IDisposable)?.Dispose();
            (reward as IDisposable)?.Dispose();
            throw;
        }
    }
}
