using System.Text.Json.Nodes;
using ML.Rlhf.Torch.Checkpoints;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Tests.Modules;
using ML.Rlhf.Torch.Training;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Checkpoints;

/// <summary>Adapters in PEFT's layout. What the golden ones compute stands in <see cref="LowRankAdapterTests"/>.</summary>
public sealed class PeftAdapterTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;

    private string ConfigPath => Path.Combine(_folder, "adapter_config.json");

    private string WeightsPath => Path.Combine(_folder, "adapter_model.safetensors");

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [InlineData("gpt2")]
    [InlineData("llama-untied")]
    [InlineData("qwen3")]
    public void What_is_written_is_read_bit_for_bit(string name)
    {
        using var noGrad = no_grad();
        using var model = GoldenModel.Load($"models/{name}");
        using var other = model.ShareWeights();
        LowRankAdapterTests.Attach(model, new LoraOptions { Rank = 3, Alpha = 7.5, Dropout = 0.1 }, disturb: true);

        PeftAdapter.Write(_folder, model);
        PeftAdapter.Read(_folder, other);

        Assert.Equal(model.Adapters.Select(a => a.Shape), other.Adapters.Select(a => a.Shape));
        Assert.All(model.Adapters.Zip(other.Adapters), pair =>
        {
            Close.AssertSameBits(pair.First.A, pair.Second.A);
            Close.AssertSameBits(pair.First.B, pair.Second.B);
        });
        Close.AssertSameBits(LowRankAdapterTests.Logits(model), LowRankAdapterTests.Logits(other));
    }

    [Theory]
    [InlineData("gpt2")]
    [InlineData("llama-untied")]
    public void A_golden_adapter_survives_being_read_and_written(string name)
    {
        using var noGrad = no_grad();
        using var model = GoldenModel.Load($"models/{name}");
        using var other = model.ShareWeights();
        PeftAdapter.Read(Golden.PathOf($"lora/{name}"), model);

        PeftAdapter.Write(_folder, model);
        PeftAdapter.Read(_folder, other);

        Dictionary<string, Tensor> golden = Golden.Tensors($"lora/{name}/adapter_model.safetensors"), written = Golden.Tensors(WeightsPath);
        Assert.Equal(golden.Keys.Order(), written.Keys.Order());
        Assert.All(golden, t => Close.AssertSameBits(t.Value, written[t.Key]));
        Close.Assert(LowRankAdapterTests.Logits(model), LowRankAdapterTests.Logits(other), relative: 1e-6, absolute: 1e-6);
    }

    [Fact]
    public void The_configuration_says_what_PEFT_asks_for()
    {
        using var model = GoldenModel.Load("models/gpt2");
        LowRankAdapterTests.Attach(model, new LoraOptions { Rank = 3, Alpha = 7, Targets = ["c_attn", "h.1.mlp.c_proj"] });

        PeftAdapter.Write(_folder, model, baseModel: "openai-community/gpt2");

        Assert.Equal(
            """
            {
              "alpha_pattern": {},
              "base_model_name_or_path": "openai-community/gpt2",
              "bias": "none",
              "fan_in_fan_out": true,
              "inference_mode": true,
              "init_lora_weights": true,
              "lora_alpha": 7,
              "lora_dropout": 0,
              "modules_to_save": null,
              "peft_type": "LORA",
              "r": 3,
              "rank_pattern": {},
              "target_modules": [
                "c_attn",
                "transformer.h.1.mlp.c_proj"
              ],
              "task_type": "CAUSAL_LM",
              "use_dora": false,
              "use_rslora": false
            }

            """.ReplaceLineEndings("\n"), File.ReadAllText(ConfigPath));
        Assert.Equal(["adapter_config.json", "adapter_model.safetensors"], Directory.GetFiles(_folder).Select(Path.GetFileName).Order());
        var tensors = Golden.Tensors(WeightsPath);
        Assert.Equal([3, 44], tensors["base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"].shape);
        Assert.Equal([132, 3], tensors["base_model.model.transformer.h.0.attn.c_attn.lora_B.weight"].shape);
        Assert.Equal(2 * 4, tensors.Count); // c_attn of three layers, and one more
    }

    [Fact]
    public void A_reward_model_has_its_head_among_the_saved_modules_with_gain_and_bias_in_it()
    {
        using var noGrad = no_grad();
        using var trunk = GoldenModel.Load("models/gpt2");
        using var adapted = trunk.ShareWeights();
        LowRankAdapterTests.Attach(adapted, new LoraOptions { Rank = 2 }, disturb: true);
        using var generator = new Generator(3, CPU);
        using var model = new ScalarGpt(adapted, generator);
        model.Normalize(2.5, -0.75);
        model.eval();

        PeftAdapter.Write(_folder, model);
        using var other = new ScalarGpt(trunk.ShareWeights(), generator: null);
        PeftAdapter.Read(_folder, other);
        other.eval();

        var texts = TinyData.Sequences(rows: 3, length: 6);
        Assert.Equal(RewardScoring.Score(model, texts), RewardScoring.Score(other, texts), (a, b) => Math.Abs(a - b) < 1e-5);
        var config = JsonNode.Parse(File.ReadAllText(ConfigPath))!;
        Assert.Equal(("SEQ_CLS", "score"), ((string?)config["task_type"], (string?)config["modules_to_save"]![0]));
        Assert.Equal([1, 44], Golden.Tensors(WeightsPath)["base_model.model.score.weight"].shape);

        using var language = trunk.ShareWeights();
        Assert.Equal(
            $"The adapter in '{_folder}' is of a sequence classifier (SEQ_CLS), which scores texts. Load it with LoadRewardAdapter.",
            Assert.Throws<FormatException>(() => PeftAdapter.Read(_folder, language)).Message);
    }

    [Fact]
    public void A_language_models_adapter_is_no_reward_models()
    {
        Copy("gpt2");
        using var model = new ScalarGpt(GoldenModel.Load("models/gpt2"), generator: null);

        Assert.Equal(
            $"The adapter in '{_folder}' is of a language model (CAUSAL_LM), and scores nothing. Load it with LoadAdapter.",
            Assert.Throws<FormatException>(() => PeftAdapter.Read(_folder, model)).Message);
    }

    [Fact]
    public void All_settings_that_are_not_built_here_are_named_at_once()
    {
        Copy("gpt2");
        Edit(config =>
        {
            config["use_dora"] = true;
            config["bias"] = "lora_only";
            config["init_lora_weights"] = "pissa";
            config["layer_replication"] = new JsonArray(new JsonArray(0, 1));
            config["rank_pattern"] = new JsonObject { ["h.[01]"] = 2 };
            config["r"] = 0;
            config["task_type"] = "SEQ_2_SEQ_LM";
        });

        Assert.Equal(
            $"'{ConfigPath}' is not an adapter that can be used here: bias is 'lora_only', but must be none, null; use_dora is 'true', " +
            "but must be false, null; layer_replication is '[[0,1]]', but must be null; init_lora_weights is 'pissa', but must be true, " +
            "false, gaussian, eva, orthogonal, null; task_type is 'SEQ_2_SEQ_LM', but must be CAUSAL_LM or SEQ_CLS; r is '0', but must be a " +
            "whole number above 0; rank_pattern has the regular expression 'h.[01]', and only names of layers are read. Adapters of plain " +
            "LoRA are read; merge others into their model with PEFT's merge_and_unload, and load that.", Read().Message);
    }

    [Theory]
    [InlineData("peft_type", "\"IA3\"", "peft_type is 'IA3', but must be 'LORA'")]
    [InlineData("peft_type", "null", "peft_type is 'null', but must be 'LORA'")]
    [InlineData("lora_alpha", "-1", "lora_alpha is '-1', but must be a finite number above 0")]
    [InlineData("lora_alpha", "1e999", "lora_alpha is '1e999', but must be a finite number above 0")]
    [InlineData("alpha_pattern", "[]", "alpha_pattern is no object")]
    [InlineData("alpha_pattern", "{\"c_attn\": \"x\"}", "alpha_pattern[c_attn] is '\"x\"', but must be a finite number above 0")]
    [InlineData("task_type", "\"\\ud800\"", "Cannot")]
    public void A_wrong_setting_says_what_is_allowed(string name, string value, string problem)
    {
        Copy("gpt2");
        Edit(config => config.Remove(name));
        File.WriteAllText(ConfigPath, File.ReadAllText(ConfigPath).Insert(1, $"\"{name}\": {value},"));

        Assert.Contains(problem, Read().Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("[]", "it is no object")]
    [InlineData("{", "is not valid JSON")]
    public void A_configuration_that_is_none(string json, string problem)
    {
        Copy("gpt2");
        File.WriteAllText(ConfigPath, json);

        Assert.Contains(problem, Read().Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Tensors_that_are_missing_extra_or_of_another_shape_are_listed_at_once()
    {
        Copy("gpt2");
        const string Layer = "base_model.model.transformer.h.0.attn.c_attn.";
        byte[] weights = File.ReadAllBytes(WeightsPath);
        int at = weights.AsSpan().IndexOf("h.0.attn.c_attn.lora_B"u8);
        weights[at + 2] = (byte)'7'; // a layer that the model does not have
        File.WriteAllBytes(WeightsPath, weights);
        Edit(config => config["target_modules"] = new JsonArray("c_attn", "c_proj", "q_proj"));

        string message = Read().Message;
        Assert.StartsWith($"The adapter in '{_folder}' does not fit the model: ", message, StringComparison.Ordinal);
        Assert.Contains($"'{Layer}lora_B.weight' is missing", message, StringComparison.Ordinal);
        Assert.Contains("'base_model.model.transformer.h.7.attn.c_attn.lora_B.weight' is not part of the model", message,
            StringComparison.Ordinal);
        Assert.Contains("'q_proj.lora_A.weight' is missing", message, StringComparison.Ordinal);

        Copy("gpt2");
        Edit(config => config["rank_pattern"] = new JsonObject { ["h.0.attn.c_attn"] = 5 });
        Assert.Contains($"'{Layer}lora_A.weight' is [4, 44], but the model has [5, 44]", Read().Message, StringComparison.Ordinal);
    }

    [Fact]
    public void An_adapter_of_another_model_is_refused_and_leaves_the_model_without_any()
    {
        Copy("llama-untied");
        using var model = GoldenModel.Load("models/gpt2");

        Assert.Contains("is not part of the model", Assert.Throws<FormatException>(() => PeftAdapter.Read(_folder, model)).Message,
            StringComparison.Ordinal);
        Assert.False(model.HasAdapters);
    }

    [Fact]
    public void Files_that_are_not_there()
    {
        using var model = TinyGpt.Fresh();
        Assert.Throws<FileNotFoundException>(() => PeftAdapter.Read(_folder, model));
        Assert.Throws<DirectoryNotFoundException>(() => PeftAdapter.Read(Path.Combine(_folder, "nowhere"), model));
        Copy("gpt2");
        File.Move(WeightsPath, Path.Combine(_folder, "adapter_model.bin"));
        Assert.Contains("may run code", Assert.Throws<FileNotFoundException>(() => PeftAdapter.Read(_folder, model)).Message,
            StringComparison.Ordinal);
    }

    [Fact]
    public void Writing_and_reading_leave_no_tensor_behind()
    {
        using var model = TinyGpt.Random();
        LowRankAdapterTests.Attach(model, new LoraOptions { Rank = 2 });
        LiveTensors.AssertNoneLeftBy(() =>
        {
            PeftAdapter.Write(_folder, model);
            using var other = model.ShareWeights();
            PeftAdapter.Read(_folder, other);
        });
    }

    private FormatException Read()
    {
        using var model = GoldenModel.Load("models/gpt2");
        return Assert.Throws<FormatException>(() => PeftAdapter.Read(_folder, model));
    }

    private void Copy(string name)
    {
        foreach (string path in Directory.GetFiles(Golden.PathOf($"lora/{name}"), "adapter_*"))
            File.Copy(path, Path.Combine(_folder, Path.GetFileName(path)), overwrite: true);
    }

    private void Edit(Action<JsonObject> edit)
    {
        var config = JsonNode.Parse(File.ReadAllText(ConfigPath))!.AsObject();
        edit(config);
        File.WriteAllText(ConfigPath, config.ToJsonString());
    }
}
