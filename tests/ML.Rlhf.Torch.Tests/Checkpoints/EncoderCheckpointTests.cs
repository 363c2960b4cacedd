using System.Text.Json.Nodes;
using ML.Rlhf.Torch.Checkpoints;
using ML.Rlhf.Torch.Modules;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Checkpoints;

public sealed class EncoderCheckpointTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [InlineData("bert")]
    [InlineData("roberta")]
    public void What_is_saved_is_what_was_loaded(string name)
    {
        var original = EncoderCheckpoint.Load(Golden.PathOf($"models/{name}"));

        EncoderCheckpoint.Save(original, _folder, padToken: 0);
        var copy = EncoderCheckpoint.Load(_folder);

        Assert.Equal(original.Architecture, copy.Architecture);
        Assert.False(copy.training);
        var weights = TinyGpt.Snapshot(original);
        Assert.All(TinyGpt.Snapshot(copy), p => Close.Assert(weights[p.Key], p.Value, what: p.Key));
        JsonNode there = Config(Golden.PathOf($"models/{name}")), here = Config(_folder);
        foreach (string setting in (string[])["architectures", "model_type", "pad_token_id", "max_position_embeddings", "hidden_size",
            "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size", "type_vocab_size", "hidden_act", "dtype",
            "tie_word_embeddings"])
            Assert.Equal(there[setting]!.ToJsonString(), here[setting]!.ToJsonString());
        Assert.Equal(1e-12, here["layer_norm_eps"]!.GetValue<double>());
        Assert.Equal(
            Golden.Tensors($"models/{name}/model.safetensors").Keys.Order(),
            Golden.Tensors(Path.Combine(_folder, "model.safetensors")).Keys.Order());
    }

    /// <summary>As checkpoints for sentence embeddings are: the bare model, whose names have no prefix, and a pooler.</summary>
    [Fact]
    public void A_model_without_a_head_gives_the_same_states_and_guesses_nothing()
    {
        using var noGrad = no_grad();
        var whole = EncoderCheckpoint.Load(Golden.PathOf("models/bert"));
        Write(whole.CheckpointTensors().Where(t => t.Name.StartsWith("bert.", StringComparison.Ordinal))
            .Select(t => (t.Name[5..], t.Target)).Append(("pooler.dense.weight", ones(36, 36))).Append(("pooler.dense.bias", ones(36))));

        var bare = EncoderCheckpoint.Load(_folder);

        var ids = arange(1, 8).unsqueeze(0);
        Close.Assert(whole.Hidden(ids), bare.Hidden(ids));
        Assert.Equal(whole.Architecture with { MaskedLanguageModelHead = false }, bare.Architecture);
        Assert.Equal(bare.Architecture.ParameterCount, bare.parameters().Sum(p => p.numel()));
        Assert.StartsWith(
            "This encoder cannot guess hidden tokens: its checkpoint came without the head that does.",
            Assert.Throws<InvalidOperationException>(() => bare.Logits(bare.Hidden(ids))).Message);

        EncoderCheckpoint.Save(bare, _folder, padToken: 0);
        Assert.Equal("""["BertModel"]""", Config(_folder)["architectures"]!.ToJsonString());
        Assert.Contains("embeddings.word_embeddings.weight", Golden.Tensors(Path.Combine(_folder, "model.safetensors")).Keys);
        Close.Assert(whole.Hidden(ids), EncoderCheckpoint.Load(_folder).Hidden(ids));
    }

    [Fact]
    public void Old_names_of_norms_and_heads_that_are_not_built_are_read()
    {
        using var noGrad = no_grad();
        var model = EncoderCheckpoint.Load(Golden.PathOf("models/bert"));
        Write(model.CheckpointTensors()
            .Select(t => (t.Name.Replace("LayerNorm.weight", "LayerNorm.gamma").Replace("LayerNorm.bias", "LayerNorm.beta"), t.Target))
            .Append(("cls.seq_relationship.weight", ones(2, 36))).Append(("bert.pooler.dense.bias", ones(36)))
            .Append(("cls.predictions.decoder.weight", ones(290, 36))));

        var ids = arange(1, 8).unsqueeze(0);
        Close.Assert(model.Hidden(ids), EncoderCheckpoint.Load(_folder).Hidden(ids));
    }

    [Fact]
    public void Missing_extra_and_misshaped_tensors_are_listed_all_at_once()
    {
        var model = EncoderCheckpoint.Load(Golden.PathOf("models/bert"));
        Write(model.CheckpointTensors().Skip(1).Select(t => t.Name.EndsWith("layer.0.output.dense.bias") ? (t.Name, ones(3)) : t)
            .Append(("classifier.weight", ones(2, 36))));

        string message = Assert.Throws<FormatException>(() => EncoderCheckpoint.Load(_folder)).Message;

        Assert.Contains("bert.embeddings.word_embeddings.weight", message);
        Assert.Contains("bert.encoder.layer.0.output.dense.bias", message);
        Assert.Contains("classifier.weight", message);
    }

    [Theory]
    [InlineData("model_type", "\"gpt2\"", "model_type is \"gpt2\", and only bert or roberta is supported")]
    [InlineData("hidden_act", "\"relu\"", "hidden_act is \"relu\", and only gelu is supported")]
    [InlineData("position_embedding_type", "\"relative_key\"",
        "position_embedding_type is \"relative_key\", and only absolute is supported")]
    [InlineData("is_decoder", "true", "is_decoder is true, and only false is supported")]
    [InlineData("tie_word_embeddings", "false", "tie_word_embeddings is false, and only true is supported")]
    [InlineData("num_attention_heads", "5", "Width is 36, but must be a positive multiple of Heads (5), at most 1048576")]
    [InlineData("hidden_size", "null", "hidden_size is missing, and must be a whole number")]
    [InlineData("vocab_size", "9000000", "a model with 333024224 parameters, but weights of only 34954 numbers")]
    public void A_setting_that_is_not_supported_is_named_with_its_value(string setting, string value, string problem)
    {
        foreach (string file in (string[])["config.json", "model.safetensors"])
            File.Copy(Golden.PathOf($"models/bert/{file}"), Path.Combine(_folder, file));
        var config = Config(_folder);
        config[setting] = JsonNode.Parse(value);
        File.WriteAllText(Path.Combine(_folder, "config.json"), config.ToJsonString());

        Assert.Contains(problem, Assert.Throws<FormatException>(() => EncoderCheckpoint.Load(_folder)).Message);
    }

    [Fact]
    public void Loading_leaves_no_tensors()
    {
        LiveTensors.AssertNoneLeftBy(() => EncoderCheckpoint.Load(Golden.PathOf("models/bert")).Dispose());
        LiveTensors.AssertNoneLeftBy(() =>
        {
            using var model = EncoderCheckpoint.Load(Golden.PathOf("models/bert"));
            EncoderCheckpoint.Save(model, _folder, padToken: 0);
        });
    }

    private static JsonNode Config(string folder) => JsonNode.Parse(File.ReadAllText(Path.Combine(folder, "config.json")))!;

    private void Write(IEnumerable<(string, Tensor)> tensors)
    {
        PretrainedWeights.Write(_folder, tensors, Pretrained.DefaultShardBytes);
        File.Copy(Golden.PathOf("models/bert/config.json"), Path.Combine(_folder, "config.json"), overwrite: true);
    }
}
