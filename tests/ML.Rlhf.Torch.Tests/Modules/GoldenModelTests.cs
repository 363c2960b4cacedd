using ML.Rlhf.Torch.Checkpoints;
using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Modules;

/// <summary>What transformers computes with the same files.</summary>
public class GoldenModelTests
{
    public static TheoryData<string> Folders { get; } = [.. new[]
        { "gpt2", "gpt2-sharded", "llama-tied", "llama-untied", "mistral", "qwen2", "qwen3" }.Select(name => "models/" + name)];

    /// <summary>Prompts are padded on the left; positions count real tokens, and no real token attends to padding.</summary>
    [Theory]
    [MemberData(nameof(Folders))]
    public void Every_hidden_state_and_logit_of_left_padded_rows_equals_the_reference(string folder)
    {
        using var noGrad = no_grad();
        var (golden, model) = Load(folder);
        var expected = Golden.Tensors($"{folder}/expected.safetensors");
        var real = golden["attention_mask"].Tensor();
        using var trace = new ForwardTrace();

        var hidden = model.Hidden(
            golden["input_ids"].Tensor(ScalarType.Int64), golden["position_ids"].Tensor(ScalarType.Int64), LeftPaddingMask(real),
            cache: null, trace);

        real = real.unsqueeze(-1);
        Close.Assert(expected["hidden_states"], stack(trace.HiddenStates) * real, relative: 1e-4, absolute: 1e-5, "hidden state");
        Close.Assert(expected["logits"], model.Logits(hidden) * real, relative: 1e-5, absolute: 1e-5, "logit");
    }

    [Theory]
    [MemberData(nameof(Folders))]
    public void Logits_and_log_probabilities_of_rows_without_padding_equal_the_reference(string folder)
    {
        using var noGrad = no_grad();
        var (golden, model) = Load(folder);
        var expected = Golden.Tensors($"{folder}/expected.safetensors");
        foreach (var (row, tokens, padding) in RealRows(golden))
        {
            var ids = tensor(tokens.Select(t => (long)t).ToArray()).unsqueeze(0);
            var logits = model.Logits(model.Hidden(ids))[0];

            Close.Assert(expected["logits"][row][padding..], logits, relative: 1e-5, absolute: 1e-5, "logit");
            Close.Assert(
                expected["logprobs"][row][padding..], LogProbabilities.OfTokens(logits[..^1], ids[0][1..]), relative: 1e-5, absolute: 1e-5,
                "log-probability");
        }
    }

    [Theory]
    [MemberData(nameof(Folders))]
    public void The_loss_and_the_gradient_norm_of_every_parameter_equal_the_reference(string folder)
    {
        var (golden, model) = Load(folder);

        var (loss, labels) = Loss(model, golden);
        loss.backward();

        Assert.Equal(golden["num_label_tokens"].Integer, labels);
        Close.Assert(golden["lm_loss"].Number, loss.ToDouble(), relative: 1e-6);
        Close.Assert(
            golden["grad_norm_total"].Number,
            Math.Sqrt(model.parameters().Sum(p => Math.Pow(p.grad!.norm().ToDouble(), 2))), relative: 1e-5);
        var norms = Pretrained.Parameters(model).ToDictionary(p => p.Name, p => p.Parameter.grad!.norm().ToDouble());
        Assert.Equal(golden["grad_norms_all"].Members.Select(m => m.Name).Order(), norms.Keys.Order());
        Assert.All(norms, n => Close.Assert(golden["grad_norms_all"][n.Key].Number, n.Value, relative: 1e-4, absolute: 1e-7, what: n.Key));
    }

    [Theory]
    [MemberData(nameof(Folders))]
    public void A_model_has_as_many_parameters_as_the_reference_and_as_its_architecture_says(string folder)
    {
        var (golden, model) = Load(folder);

        Assert.Equal(golden["num_parameters"].Integer, model.Architecture.ParameterCount);
        Assert.Equal(golden["num_parameters"].Integer, model.parameters().Sum(p => p.numel()));
    }

    /// <summary>Attention weights are asked for with another formula than the kernel's: both must say the same.</summary>
    [Theory]
    [MemberData(nameof(Folders))]
    public void Attention_weights_add_up_to_one_and_look_neither_ahead_nor_past_the_window(string folder)
    {
        using var noGrad = no_grad();
        var (golden, model) = Load(folder);
        var ids = tensor(RealRows(golden).First().Tokens.Select(t => (long)t).ToArray()).unsqueeze(0);
        using var trace = new ForwardTrace();

        var hidden = model.Hidden(ids, positions: null, mask: null, cache: null, trace);

        Close.AssertSameBits(model.Hidden(ids), hidden);
        Assert.Equal(model.Architecture.Layers, trace.AttentionWeights.Count);
        long t = ids.shape[1], window = (model.Architecture as LlamaArchitecture)?.SlidingWindow ?? t;
        foreach (var weights in trace.AttentionWeights)
        {
            Close.Assert(ones_like(weights.sum(-1)), weights.sum(-1), absolute: 1e-5);
            var distance = arange(t).unsqueeze(1) - arange(t);
            var visible = (distance >= 0) & (distance < window);
            Assert.True((weights.amin([0, 1]) > 0).Equals(visible), "exactly the visible tokens are looked at");
        }
    }

    private static (Golden Golden, CausalLanguageModel Model) Load(string folder) =>
        (Golden.Load($"{folder}/expected.json"), GoldenModel.Load(folder));

    /// <summary>The mean loss over the labels of a golden file, and how many there are.</summary>
    internal static (Tensor Loss, long Labels) Loss(CausalLanguageModel model, Golden golden)
    {
        // The same rows on the other side of their padding, as our trainers batch them; a label of −100 is one that is not learned.
        var rows = RealRows(golden).ToArray();
        var sequences = new TokenSequences();
        foreach (var (_, tokens, _) in rows)
            sequences.Add(tokens);
        int[] firstLabels = [.. rows.Select(r => Array.FindIndex(golden["labels"][r.Row].Integers, label => label >= 0) - r.Padding)];
        var (ids, positions, labels) = NextTokenLoss.CompletionBatch(
            new CompletionData(sequences, firstLabels), [.. rows.Select(r => r.Row)], CPU, promptsToo: false);
        return (NextTokenLoss.Sum(model, ids, positions, labels) / (double)labels.numel(), labels.numel());
    }

    internal static Tensor LeftPaddingMask(Tensor real)
    {
        long t = real.shape[1];
        var hidden = (real == 0).unsqueeze(1).unsqueeze(1) | ones([t, t], @bool).triu(1);
        return zeros(hidden.shape).masked_fill(hidden & ~eye(t, t, @bool), double.NegativeInfinity);
    }

    private static IEnumerable<(int Row, int[] Tokens, int Padding)> RealRows(Golden golden)
    {
        for (int row = 0; row < golden["input_ids"].Items.Count(); row++)
        {
            int padding = golden["attention_mask"][row].Integers.Count(m => m == 0);
            yield return (row, golden["input_ids"][row].Integers[padding..], padding);
        }
    }
}
