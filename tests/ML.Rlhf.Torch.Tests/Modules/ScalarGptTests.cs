using ML.Rlhf.Torch.Checkpoints;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Modules;

public class ScalarGptTests
{
    [Fact]
    public void Scores_and_gradients_of_right_padded_rows_equal_the_reference()
    {
        var golden = Golden.Load("models/gpt2-reward/expected.json")["right_padded"];
        var model = GoldenModel.LoadScalar("models/gpt2-reward");
        int[][] rows = [.. golden["input_ids"].Items.Zip(
            golden["attention_mask"].Items, (ids, mask) => ids.Integers[..mask.Integers.Sum()])];

        var scores = RewardScoring.AtLastToken(model, PaddedBatch.Create(rows, CPU));
        var meanSquare = scores.square().mean();
        meanSquare.backward();

        Close.Assert(golden["scores"].Tensor(), scores, relative: 1e-5, absolute: 1e-5);
        Close.Assert(golden["mean_square"].Number, meanSquare.ToDouble(), relative: 1e-5);
        Assert.All(Pretrained.Parameters(model).Where(p => p.Name != "score.bias"), p => Close.Assert(
            golden["grad_norms_all"][p.Name].Number, p.Parameter.grad!.norm().ToDouble(), relative: 1e-4, what: p.Name));
    }

    /// <summary>TRL's get_reward takes the token before the first padding after the context: our last real token.</summary>
    [Fact]
    public void Scores_of_prompt_and_response_equal_get_rewards()
    {
        var golden = Golden.Load("models/gpt2-reward/expected.json");
        var get = golden["trl_get_reward"];
        var model = GoldenModel.LoadScalar("models/gpt2-reward");
        var sequences = new TokenSequences();
        foreach (var row in get["query_responses"].Items)
            sequences.Add([.. row.Integers.Where(token => token != golden["pad_token_id"].Integer)]);

        double[] scores = RewardScoring.Score(model, sequences);

        Close.Assert(get["final_scores"].Tensor(), tensor(scores), relative: 1e-5, absolute: 1e-5);
    }

    [Fact]
    public void The_same_text_scores_the_same_however_it_is_padded_and_whoever_stands_beside_it()
    {
        using var noGrad = no_grad();
        var model = TinyGpt.RandomScalar(seed: 1);
        var data = TinyData.Sequences(rows: 6, length: 9);
        float[] alone = [.. Enumerable.Range(0, 6).Select(row => Score([data[row].ToArray()])[0])];

        foreach (int longest in (int[])[9, 10, 17, 24])
        {
            var companion = new int[longest];
            for (int row = 0; row < 6; row++)
            {
                Close.Assert(alone[row], Score([data[row].ToArray(), companion])[0], absolute: 1e-5);
                Close.Assert(alone[row], Score([companion, companion[..1], data[row].ToArray()])[2], absolute: 1e-5);
            }
        }

        float[] Score(int[][] rows) =>
            RewardScoring.AtLastToken(model, PaddedBatch.Create(rows, CPU)).data<float>().ToArray();
    }

    [Fact]
    public void A_head_without_a_generator_gives_0_everywhere()
    {
        var model = new ScalarGpt(TinyGpt.Random(), generator: null);

        Close.Assert(zeros(2, 5), model.Scores(ones([2, 5], int64)));
    }

    [Fact]
    public void A_head_from_a_generator_has_the_deviation_of_lm_human_preferences()
    {
        var wide = GptArchitecture.Nano with { Width = 1023, Heads = 1, Layers = 1 };
        var model = new ScalarGpt(new Gpt(wide), new Generator(5, CPU));
        var head = model.named_parameters().Single(p => p.name == "score.weight").parameter;

        Close.Assert(1.0 / 32, head.std().ToDouble(), relative: 0.1);
        Assert.Equal(0, model.named_parameters().Single(p => p.name == "score.bias").parameter.item<float>());
    }

    [Fact]
    public void Gain_and_bias_stand_beside_the_head_and_are_set_not_added_up()
    {
        using var noGrad = no_grad();
        var model = TinyGpt.RandomScalar();
        var ids = arange(10).unsqueeze(0);
        var learned = model.Scores(ids);
        var weights = TinyGpt.Snapshot(model);

        model.Normalize(gain: 4, bias: 9);
        model.Normalize(gain: 2.5, bias: -0.75);

        Assert.Equal((2.5, -0.75), (model.Gain, model.Bias));
        Close.Assert(learned * 2.5 - 0.75, model.Scores(ids), absolute: 1e-5);
        Assert.All(TinyGpt.Snapshot(model), p => Close.Assert(weights[p.Key], p.Value));
    }

    [Theory]
    [InlineData(0, 0)]
    [InlineData(-1, 0)]
    [InlineData(double.NaN, 0)]
    [InlineData(double.PositiveInfinity, 0)]
    [InlineData(1, double.NegativeInfinity)]
    public void A_gain_that_would_turn_or_lose_the_order_is_refused(double gain, double bias)
    {
        Assert.Throws<ArgumentOutOfRangeException>(gain == 1 ? "bias" : "gain", () => TinyGpt.RandomScalar().Normalize(gain, bias));
    }

    /// <summary>The value function learns in the unit of the scores, and its head at the optimiser's own rate.</summary>
    [Fact]
    public void A_value_function_starts_with_the_scores_and_has_gain_and_bias_in_its_head()
    {
        using var noGrad = no_grad();
        var model = TinyGpt.RandomScalar();
        model.Normalize(gain: 2.5, bias: -0.75);
        var ids = arange(10).unsqueeze(0);
        var before = TinyGpt.Snapshot(model);

        var value = model.CloneAsValueFunction(trunk => trunk.Clone());

        Close.Assert(model.Scores(ids), value.Scores(ids), absolute: 1e-5);
        Assert.Equal((1, 0, 2.5, -0.75), (value.Gain, value.Bias, model.Gain, model.Bias));
        Close.Assert(before["score.weight"] * 2.5, TinyGpt.Snapshot(value)["score.weight"], relative: 1e-6);
        Assert.All(TinyGpt.Snapshot(model), p => Close.Assert(before[p.Key], p.Value));
    }

    [Fact]
    public void A_clone_scores_the_same_and_shares_no_storage()
    {
        using var noGrad = no_grad();
        var model = TinyGpt.RandomScalar();
        model.Normalize(gain: 3, bias: 1);
        var ids = arange(10).unsqueeze(0);
        var before = model.Scores(ids);
        var clone = model.Clone();
        Close.Assert(before, clone.Scores(ids));

        foreach (var parameter in clone.parameters())
            parameter.zero_();

        Close.Assert(before, model.Scores(ids));
    }

    [Fact]
    public void A_model_that_is_made_inside_a_scope_outlives_it()
    {
        ScalarGpt model, clone;
        using (NewDisposeScope())
        {
            model = new ScalarGpt(TinyGpt.Fresh(), new Generator(1, CPU));
            clone = model.Clone();
        }

        Close.Assert(model.Scores(arange(5).unsqueeze(0)), clone.Scores(arange(5).unsqueeze(0)));
    }

    [Fact]
    public void Building_scoring_rescaling_and_disposing_leave_no_tensor_behind() => LiveTensors.AssertNoneLeftBy(() =>
    {
        using var model = new ScalarGpt(TinyGpt.Fresh(), new Generator(1, CPU));
        using var clone = model.Clone();
        using var value = clone.CloneAsValueFunction(trunk => trunk.Clone());
        RewardScoring.Score(model, TinyData.Sequences(rows: 3, length: 4));
    });
}
