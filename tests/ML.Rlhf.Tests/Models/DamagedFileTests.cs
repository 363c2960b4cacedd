using System.IO.Compression;
using System.Security.Cryptography;
using System.Text;
using System.Text.RegularExpressions;
using Microsoft.ML;
using Microsoft.ML.Data;
using ML.Rlhf.TestSupport;

namespace ML.Rlhf.Tests.Models;

/// <summary>Files that are not whole, not ours, or not of our time. The message names the file and what to do.</summary>
public sealed class DamagedFileTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;
    private readonly MLContext _ml = new(seed: 1);

    private string Zip => Path.Combine(_folder, "model.zip");

    public DamagedFileTests() => _ml.Model.Save(Tiny.Model, null, Zip);

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void A_file_that_does_not_exist()
    {
        string path = Path.Combine(_folder, "nowhere.zip");

        Assert.Equal(
            $"There is no model file '{path}'. Check the path, or save a model there with ml.Model.Save.",
            Assert.Throws<FileNotFoundException>(() => _ml.Rlhf().Models.Load<TextGenerationTransformer>(path)).Message);
    }

    [Theory]
    [InlineData(0.0)]
    [InlineData(0.3)]
    [InlineData(0.9)]
    public void A_file_that_was_not_copied_completely(double part)
    {
        byte[] whole = File.ReadAllBytes(Zip);
        File.WriteAllBytes(Zip, whole[..(int)(whole.Length * part)]);

        AssertError($"'{Zip}' is no model.zip, or not a whole one: ", "The file is damaged or was not copied completely; copy or save it again.");
    }

    [Fact]
    public void A_file_of_something_else()
    {
        File.WriteAllText(Zip, "This is no zip file at all, but it is long enough to be one.");
        AssertError($"'{Zip}' is no model.zip, or not a whole one: ", "The file is damaged or was not copied completely; copy or save it again.");

        File.Delete(Zip);
        using (var zip = ZipFile.Open(Zip, ZipArchiveMode.Create))
            zip.CreateEntry("readme.txt");
        AssertError($"'{Zip}' is no model.zip, or not a whole one: ", "The file is damaged or was not copied completely; copy or save it again.");
    }

    [Fact]
    public void Weights_that_were_cut_short()
    {
        Edit("model.safetensors", content => content[..^1000]);

        AssertError(
            $"'{Zip}' cannot be loaded: The weights (safetensors) cannot be read: " +
            "it ends in the middle of tensor 'h.0.mlp.c_proj.weight'. ",
            "The file is damaged or belongs to another model; save or copy it again.");
    }

    [Theory]
    [InlineData(0)]
    [InlineData(20)]
    public void Weights_whose_header_has_a_bit_flipped(int position)
    {
        Edit("model.safetensors", content => Flip(content, position));

        AssertError($"'{Zip}' cannot be loaded: The weights (safetensors) cannot be read: ", "; save or copy it again.");
    }

    /// <summary>Any bits are weights: only the checksum knows.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(4000)]
    public void Weights_of_which_a_bit_was_flipped(int beforeEnd)
    {
        Edit("model.safetensors", content => Flip(content, content.Length - beforeEnd));

        AssertError($"'{Zip}' cannot be loaded: 'model.safetensors' is not what was saved (its checksum differs): ",
            "the file is damaged or was edited. Copy it or save the model again.");
    }

    [Theory]
    [InlineData("architecture.json", "\"Heads\": 2", "\"Heads\": 4")]
    [InlineData("architecture.json", "\"Layers\": 1", "\"Layers\": 2")]
    [InlineData("tokenizer.json", "\"y\"", "\"Y\"")]
    public void A_part_that_was_edited(string entry, string text, string instead)
    {
        EditText(entry, json => json.Replace(text, instead));

        AssertError($"'{Zip}' cannot be loaded: '{entry}' is not what was saved (its checksum differs): ",
            "the file is damaged or was edited. Copy it or save the model again.");
    }

    [Fact]
    public void A_bit_that_was_flipped_anywhere_in_the_file_never_gives_another_model()
    {
        byte[] whole = File.ReadAllBytes(Zip);
        var random = new Random(1);
        string expected = Tiny.Model.Generate("cat", new SamplingOptions { MaxNewTokens = 25 });
        var weights = Tiny.Weights(Tiny.Model);
        int errors = 0;
        for (int i = 0; i < 60; i++)
        {
            byte[] damaged = [.. whole];
            damaged[random.Next(damaged.Length)] ^= (byte)(1 << random.Next(8));
            File.WriteAllBytes(Zip, damaged);
            try
            {
                using var model = _ml.Rlhf().Models.Load<TextGenerationTransformer>(Zip);
                Assert.Equal(weights, Tiny.Weights(model)); // the bit was one that nobody reads, such as a file's date
                Assert.Equal(expected, model.Generate("cat", new SamplingOptions { MaxNewTokens = 25 }));
            }
            catch (FormatException e)
            {
                Assert.StartsWith($"'{Zip}' ", e.Message);
                errors++;
            }
        }
        Assert.InRange(errors, 40, 60);
    }

    [Theory]
    [InlineData("\"Heads\": 2", "\"Heads\": 3", "GptArchitecture: Width is 16, but must be a positive multiple of Heads (3), at most " +
        "1048576.")]
    [InlineData("\"Heads\": 2", "\"Heads\": \"two\"", "The JSON value could not be converted to System.Int32.")]
    [InlineData("\"Heads\": 2,", "", "JSON deserialization for type 'ML.Rlhf.GptArchitecture' was missing required properties")]
    [InlineData("{", "[", "")]
    public void An_architecture_that_is_none(string text, string instead, string problem)
    {
        EditText("architecture.json", json => json.Replace(text, instead));

        AssertError($"'{Zip}' cannot be loaded: architecture.json is not a valid architecture: {problem}",
            "The file is damaged; save the model again.");
    }

    [Fact]
    public void A_model_larger_than_its_file_takes_no_memory()
    {
        Forge("architecture.json", json => Regex.Replace(json, "\"ContextLength\": [0-9]+", "\"ContextLength\": 16000000"));

        AssertError($"'{Zip}' cannot be loaded: The model has 25600", "The file is damaged; save the model again.");
    }

    [Theory]
    [InlineData("architecture.json")]
    [InlineData("tokenizer.json")]
    [InlineData("model.safetensors")]
    public void A_part_that_is_missing(string entry)
    {
        using (var zip = ZipFile.Open(Zip, ZipArchiveMode.Update))
            Find(zip, entry).Delete();

        AssertError($"'{Zip}' cannot be loaded: Model component 'TextGeneration' has no stream '{entry}' in this file. ",
            "Save the model again, or get a whole copy.");
    }

    [Fact]
    public void Settings_that_were_cut_short_or_are_out_of_range()
    {
        Edit("Model.key", content => content); // a file that only went through our editing is whole
        _ml.Rlhf().Models.Load<TextGenerationTransformer>(Zip).Dispose();

        Edit("Model.key", content =>
        {
            int temperature = content.AsSpan().IndexOf("Completion"u8) + "Completion".Length + sizeof(int);
            BitConverter.TryWriteBytes(content.AsSpan(temperature), -1f);
            return content;
        });

        AssertError($"'{Zip}' cannot be loaded: The sampling options of the model are damaged: SamplingOptions: Temperature is -1, " +
            "but must be 0 (always the likeliest token), or finite and at least 0.001. ", "Copy the file or save the model again.");
    }

    [Fact]
    public void A_component_of_a_newer_version()
    {
        ChangeVersion(to: 4);

        AssertError($"'{Zip}' cannot be loaded: Model component 'TextGeneration' version 4 is newer than this library (3). ",
            "Update the ML.Rlhf package to read it.");
    }

    /// <summary>Version 1 had gain and bias inside the head; no release wrote it.</summary>
    [Theory]
    [InlineData(
        1, "version 1 has gain and bias inside its head, which is not read any more. ", "Train the reward model again, and save it.")]
    [InlineData(3, "version 3 is newer than this library (2). ", "Update the ML.Rlhf package to read it.")]
    public void A_reward_model_of_another_version(byte version, string problem, string fix)
    {
        _ml.Model.Save(Tiny.Reward, null, Zip);
        Edit("Model.key", content =>
        {
            int place = content.AsSpan().IndexOf("\u0006Reward"u8) + 1 + "Reward".Length;
            Assert.Equal(2, BitConverter.ToInt32(content, place));
            content[place] = version;
            return content;
        });

        AssertError<RewardTransformer>($"'{Zip}' cannot be loaded: Model component 'Reward' {problem}", fix);
    }

    [Theory]
    [InlineData("\"Gain\":", "\"Gain\":1")]
    [InlineData("{", "")]
    public void A_normalisation_that_was_edited(string text, string instead)
    {
        _ml.Model.Save(Tiny.Reward, null, Zip);
        EditText("normalization.json", json => json.Replace(text, instead));

        AssertError<RewardTransformer>($"'{Zip}' cannot be loaded: 'normalization.json' is not what was saved (its checksum differs): ",
            "the file is damaged or was edited. Copy it or save the model again.");
    }

    [Theory]
    [InlineData("null", "the gain must be a finite number above 0")]
    [InlineData("{\"Gain\":0,\"Bias\":0}", "the gain must be a finite number above 0")]
    [InlineData("{\"Gain\":1,\"Bias\":1e999}", "")]
    [InlineData("{\"Gain\":}", "")]
    public void A_normalisation_that_was_forged(string json, string problem)
    {
        _ml.Model.Save(Tiny.Reward, null, Zip);
        Forge("normalization.json", _ => json);

        string message = Assert.Throws<FormatException>(() => _ml.Rlhf().Models.Load<RewardTransformer>(Zip)).Message;

        Assert.StartsWith($"'{Zip}' cannot be loaded: normalization.json is damaged: {problem}", message);
    }

    [Theory]
    [InlineData("null")]
    [InlineData("{\"template\":null,\"specialTokens\":{}}")]
    [InlineData("{\"template\":\"a\",\"specialTokens\":{\"eos_token\":null}}")]
    public void A_chat_template_that_was_forged(string json)
    {
        using var chat = Tiny.Model.WithChatTemplate(_ml.Rlhf().ChatTemplates.HumanAssistant());
        _ml.Model.Save(chat, null, Zip);
        Forge("chat-template.json", _ => json);

        AssertError($"'{Zip}' cannot be loaded: The saved chat template is damaged: ", ".");
    }

    [Fact]
    public void An_encoder_whose_tokenizer_lacks_its_tokens_leaves_no_tensors()
    {
        _ml.Model.Save(Tiny.Encoder, null, Zip);
        Forge("tokenizer.json", json => json.Replace("[MASK]", "[MISS]"));
        void Load() => Assert.Contains("An encoder needs the special tokens", Assert.Throws<FormatException>(
            () => _ml.Rlhf().Models.Load<EncoderTransformer>(Zip)).Message);

        LiveTensors.AssertNoneLeftBy(Load);
    }

    [Fact]
    public void Of_a_pipeline_only_what_was_asked_for_stays_in_memory()
    {
        _ml.Model.Save(new TransformerChain<ITransformer>(Tiny.Model, Tiny.Reward), null, Zip);

        LiveTensors.AssertNoneLeftBy(() => _ml.Rlhf().Models.Load<RewardTransformer>(Zip).Dispose());
        LiveTensors.AssertNoneLeftBy(() => Assert.Throws<FormatException>(() => _ml.Rlhf().Models.Load<EncoderTransformer>(Zip)));
        Edit("Transform_001/model.safetensors", content => Flip(content, 100));
        LiveTensors.AssertNoneLeftBy(() => Assert.Throws<FormatException>(() => _ml.Rlhf().Models.Load<RewardTransformer>(Zip)));
    }

    [Fact]
    public void A_zip_file_that_unpacks_to_far_more_than_it_is_is_not_unpacked()
    {
        File.Delete(Zip);
        using (var zip = ZipFile.Open(Zip, ZipArchiveMode.Create))
        {
            using var entry = zip.CreateEntry("Predictor/model.safetensors").Open();
            for (int i = 0; i < 100; i++)
                entry.Write(new byte[1 << 20]);
        }

        AssertError($"'{Zip}' is no model.zip, or not a whole one: its entry 'Predictor/model.safetensors' would unpack from ",
            "copy or save it again.");
    }

    [Fact]
    public void A_pipeline_in_a_pipeline_in_a_pipeline_without_end_is_refused()
    {
        File.Delete(Zip);
        using (var zip = ZipFile.Open(Zip, ZipArchiveMode.Create))
            zip.CreateEntry(string.Concat(Enumerable.Repeat("Transform_000/", 4000)) + "Model.key").Open().Dispose();

        AssertError($"'{Zip}' is no model.zip, or not a whole one: its entry 'Transform_000/Transform_000/", "copy or save it again.");
    }

    [Fact]
    public void A_component_of_a_version_before_the_first_release()
    {
        ChangeVersion(to: 1);

        AssertError($"'{Zip}' cannot be loaded: The model was saved by a preview of this package, in format 1, ",
            "Train or save the model again with this package.");
    }

    private void ChangeVersion(byte to) => Edit("Model.key", content =>
    {
        int version = content.AsSpan().IndexOf("TextGeneration"u8) + "TextGeneration".Length;
        Assert.Equal(3, BitConverter.ToInt32(content, version));
        content[version] = to;
        return content;
    });

    [Fact]
    public void A_component_of_another_type()
    {
        AssertError<RewardTransformer>($"'{Zip}' has no RewardTransformer, but TextGenerationTransformer. ",
            "Ask for one of these, or load another file.");

        var stock = _ml.Transforms.CopyColumns("A", "Prompt").Append(_ml.Transforms.CopyColumns("B", "Prompt")).Fit(_ml.View("cat"));
        _ml.Model.Save(stock, null, Zip);

        AssertError($"'{Zip}' has no TextGenerationTransformer, but ColumnCopyingTransformer, ColumnCopyingTransformer. ",
            "Ask for one of these, or load another file.");
    }

    /// <summary>ML.NET's own loading wraps errors; the innermost one is ours.</summary>
    [Fact]
    public void Plain_loading_has_the_same_message_inside()
    {
        Edit("model.safetensors", content => content[..^1000]);

        var thrown = Assert.ThrowsAny<Exception>(() => _ml.Model.Load(Zip, out _));

        Assert.StartsWith("The weights (safetensors) cannot be read: it ends in the middle of tensor ",
            Assert.IsType<FormatException>(thrown.GetBaseException()).Message);
    }

    [Fact]
    public void A_load_that_failed_leaves_no_tensors()
    {
        Edit("model.safetensors", content => content[..^1000]);
        Assert.Throws<FormatException>(() => _ml.Rlhf().Models.Load<TextGenerationTransformer>(Zip));
        long before = TorchSharp.DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;

        Assert.Throws<FormatException>(() => _ml.Rlhf().Models.Load<TextGenerationTransformer>(Zip));

        Assert.Equal(before, TorchSharp.DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount);
    }

    private static byte[] Flip(byte[] content, int position)
    {
        content[position] ^= 0x40;
        return content;
    }

    private void AssertError(string start, string end) => AssertError<TextGenerationTransformer>(start, end);

    private void AssertError<T>(string start, string end) where T : class, ITransformer
    {
        string message = Assert.Throws<FormatException>(() => _ml.Rlhf().Models.Load<T>(Zip)).Message;
        Assert.StartsWith(start, message);
        Assert.EndsWith(end, message);
    }

    /// <summary>Whoever changes a part on purpose writes its checksum too.</summary>
    private void Forge(string entry, Func<string, string> edit)
    {
        byte[] before = [], after = [];
        Edit(entry, content =>
        {
            before = SHA256.HashData(content);
            content = Encoding.UTF8.GetBytes(edit(Encoding.UTF8.GetString(content)));
            after = SHA256.HashData(content);
            return content;
        });
        Edit("Model.key", content =>
        {
            after.CopyTo(content.AsSpan(content.AsSpan().IndexOf(before)));
            return content;
        });
    }

    private void EditText(string entry, Func<string, string> edit) => Edit(entry, content =>
    {
        string before = Encoding.UTF8.GetString(content), after = edit(before);
        Assert.NotEqual(before, after);
        return Encoding.UTF8.GetBytes(after);
    });

    private void Edit(string entry, Func<byte[], byte[]> edit)
    {
        using var zip = ZipFile.Open(Zip, ZipArchiveMode.Update);
        using var stream = Find(zip, entry).Open();
        var content = new byte[stream.Length];
        stream.ReadExactly(content);
        content = edit(content);
        stream.SetLength(0);
        stream.Write(content);
    }

    private static ZipArchiveEntry Find(ZipArchive zip, string end) =>
        zip.Entries.Last(entry => entry.FullName.Replace('\\', '/').EndsWith(end, StringComparison.Ordinal));
}
