using System.Text.Json.Nodes;
using ML.Rlhf.Torch.Checkpoints;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Modules;

/// <summary>Settings of the architectures beside those of their usual checkpoints.</summary>
public sealed class ModelVariantTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    public static TheoryData<string> Folders { get; } = [.. new[]
    {
        "openai-gpt", "gpt2-gelu", "llama-linear", "llama-dynamic", "llama-yarn", "llama-yarn-mscale", "llama-llama3", "qwen2-window",
        "qwen3-bias",
    }.Select(name => "model-variants/" + name)];

    [Theory]
    [MemberData(nameof(Folders))]
    public void Logits_and_the_gradient_norm_of_every_parameter_equal_the_reference(string folder)
    {
        var golden = Golden.Load($"{folder}/expected.json");
        var model = GoldenModel.Load(folder);

        var logits = model.Logits(model.Hidden(golden["input_ids"].Tensor(ScalarType.Int64)));
        var meanSquare = logits.square().mean();
        meanSquare.backward();

        Close.Assert(Golden.Tensors($"{folder}/expected.safetensors")["logits"], logits, relative: 1e-5, absolute: 1e-5, "logit");
        Close.Assert(golden["mean_square"].Number, meanSquare.ToDouble(), relative: 1e-5);
        var norms = Pretrained.Parameters(model).ToDictionary(p => p.Name, p => p.Parameter.grad!.norm().ToDouble());
        Assert.Equal(golden["grad_norms_all"].Members.Select(m => m.Name).Order(), norms.Keys.Order());
        Assert.All(norms, n => Close.Assert(golden["grad_norms_all"][n.Key].Number, n.Value, relative: 1e-4, absolute: 1e-6, what: n.Key));
        Assert.Equal(model.Architecture.ParameterCount, model.parameters().Sum(p => p.numel()));
    }

    [Fact]
    public void A_sequence_classifier_of_another_family_scores_as_the_reference_does()
    {
        using var noGrad = no_grad();
        const string Folder = "model-variants/llama-reward";
        var golden = Golden.Load($"{Folder}/expected.json");

        var scores = GoldenModel.LoadScalar(Folder).Scores(golden["input_ids"].Tensor(ScalarType.Int64));

        Close.Assert(Golden.Tensors($"{Folder}/expected.safetensors")["logits"], scores[.., ^1..], relative: 1e-5, absolute: 1e-5, "score");
    }

    [Theory]
    [MemberData(nameof(Folders))]
    [MemberData(nameof(GoldenModelTests.Folders), MemberType = typeof(GoldenModelTests))]
    public void What_is_saved_loads_with_the_same_architecture_and_the_same_bits(string folder)
    {
        var model = GoldenModel.Load(folder);

        Pretrained.Save(model, _folder);
        var again = Pretrained.LanguageModel(_folder);

        Assert.Equal(model.Architecture, again.Architecture);
        Assert.All(model.named_parameters().Zip(again.named_parameters()), pair =>
            Close.AssertSameBits(pair.First.parameter, pair.Second.parameter, pair.First.name));
    }

    /// <summary>Transformers writes tied heads once and names tensors as we do: nothing is left over on either side.</summary>
    [Theory]
    [MemberData(nameof(Folders))]
    [MemberData(nameof(GoldenModelTests.Folders), MemberType = typeof(GoldenModelTests))]
    public void What_is_saved_has_the_tensors_and_the_settings_that_transformers_wrote(string folder)
    {
        Pretrained.Save(GoldenModel.Load(folder), _folder);

        using var ours = PretrainedWeights.Open(_folder);
        using var theirs = PretrainedWeights.Open(Golden.PathOf(folder));
        static IEnumerable<(string, string)> Shapes(PretrainedWeights w) => w.Tensors.Values.Select(t => (t.Name, t.ShapeText)).Order();
        Assert.Equal(Shapes(theirs), Shapes(ours));
        var (ourConfig, theirConfig) = (Config(_folder), Config(Golden.PathOf(folder)));
        string[] tokens = ["bos_token_id", "eos_token_id"]; // only the tokenizer knows them
        foreach (var (name, value) in theirConfig.Where(setting => !tokens.Contains(setting.Key)))
            if (ourConfig.TryGetPropertyValue(name, out var ourValue) && name != "rope_parameters")
                Assert.True(JsonNode.DeepEquals(value, ourValue), $"{name}: {value} became {ourValue}");
    }

    private static JsonObject Config(string folder) => JsonNode.Parse(File.ReadAllText(Path.Combine(folder, "config.json")))!.AsObject();

    [Theory]
    [InlineData("llama-tied"), InlineData("llama-untied"), InlineData("mistral"), InlineData("qwen2"), InlineData("qwen3")]
    public void The_older_form_of_a_configuration_says_the_same(string name)
    {
        File.Copy(Golden.PathOf($"models/{name}/config.v4.json"), Path.Combine(_folder, "config.json"));

        Assert.Equal(PretrainedConfig.Read(Golden.PathOf($"models/{name}")).Architecture, PretrainedConfig.Read(_folder).Architecture);
    }

    [Fact]
    public void A_configuration_reports_everything_that_cannot_be_loaded_at_once()
    {
        string error = Refused("""
            {"model_type": "llama", "architectures": ["LlamaForTokenClassification"], "hidden_act": "gelu", "num_hidden_layers": "two",
             "num_attention_heads": 3, "hidden_size": 16, "max_position_embeddings": 64, "vocab_size": 61,
             "rope_scaling": {"type": "longrope"}, "partial_rotary_factor": 0.5, "quantization_config": {"bits": 4}}
            """);

        Assert.Equal(
            "quantization_config is {\"bits\": 4}, and only a model of F32, F16 or BF16 numbers is supported; " +
            "architectures is [\"LlamaForTokenClassification\"], and only a causal language model or a sequence classifier is supported; " +
            "hidden_act is \"gelu\", and only \"silu\" is supported; num_hidden_layers is \"two\", but must be a whole number; " +
            "intermediate_size is missing, and must be a whole number; partial_rotary_factor is 0.5, and only 1 is supported; " +
            "type is \"longrope\", and only one of default, linear, dynamic, yarn, llama3 is supported; LlamaArchitecture: Layers is 0, " +
            "but must be from 1 to 10000; Width is 16, but must be an even multiple of Heads (3) where HeadWidth is null; " +
            "FeedForwardWidth is 0, but must be from 1 to 1048576.", error);
    }

    [Fact]
    public void An_unknown_model_type_is_refused_with_those_that_are_known() => Assert.Equal(
        "model_type is \"rwkv\", and these are supported: gpt2, openai-gpt, llama, mistral, qwen2, qwen3.",
        Refused("""{"model_type": "rwkv"}"""));

    [Fact]
    public void Windows_in_some_layers_only_are_refused() => Assert.Equal(
        "1 of 2 layers have a sliding window, and all or none is supported.",
        Refused("""
            {"model_type": "qwen2", "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 8,
             "max_position_embeddings": 64, "vocab_size": 61, "use_sliding_window": true, "sliding_window": 4,
             "layer_types": ["full_attention", "sliding_attention"]}
            """));

    [Theory]
    [InlineData("", 4096)] // what transformers takes where the file says nothing
    [InlineData("\"sliding_window\": null,", null)]
    [InlineData("\"sliding_window\": 7,", 7)]
    public void A_Mistral_has_a_window_unless_its_file_says_that_it_has_none(string setting, int? expected)
    {
        File.WriteAllText(Path.Combine(_folder, "config.json"), $$"""
            {"model_type": "mistral", "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 8,
             {{setting}} "max_position_embeddings": 8192, "vocab_size": 61}
            """);

        Assert.Equal(expected, ((LlamaArchitecture)PretrainedConfig.Read(_folder).Architecture).SlidingWindow);
    }

    [Fact]
    public void A_classifier_of_several_labels_is_no_reward_model() => Assert.Equal(
        "it has 2 labels, and a reward model has one.",
        Refused("""
            {"model_type": "gpt2", "architectures": ["GPT2ForSequenceClassification"], "id2label": {"0": "bad", "1": "good"},
             "n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 64, "vocab_size": 61}
            """));

    private string Refused(string config)
    {
        string path = Path.Combine(_folder, "config.json");
        File.WriteAllText(path, config);
        string message = Assert.Throws<FormatException>(() => PretrainedConfig.Read(_folder)).Message;
        string start = $"'{path}' describes a model that cannot be loaded: ";
        Assert.StartsWith(start, message, StringComparison.Ordinal);
        return message[start.Length..];
    }
}
