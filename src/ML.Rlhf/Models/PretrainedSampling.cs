using System.Text.Json;
using System.Text.Json.Nodes;
using ML.Rlhf.Torch.Checkpoints;

namespace ML.Rlhf;

/// <summary>Sampling options as <c>generation_config.json</c> has them.</summary>
internal static class PretrainedSampling
{
    private const string FileName = "generation_config.json";

    /// <summary>Reads the options of a folder; the defaults where it has none.</summary>
    /// <exception cref="FormatException">The file is damaged, or a value is out of its range.</exception>
    public static SamplingOptions Read(string folder)
    {
        string path = Path.Combine(folder, FileName);
        if (!PretrainedFile.Exists(path))
            return new SamplingOptions();
        using var json = PretrainedJson.Read(path);
        var config = new ConfigReader(json.RootElement);
        var none = new SamplingOptions();
        bool greedy = !config.Flag("do_sample", true);
        int maximum = config.OptionalInteger("max_new_tokens") ?? none.MaxNewTokens;
        var sampling = new SamplingOptions
        {
            MaxNewTokens = maximum,
            MinNewTokens = Math.Min(config.OptionalInteger("min_new_tokens") ?? none.MinNewTokens, maximum),
            RepetitionPenalty = Single("repetition_penalty", none.RepetitionPenalty),
            NoRepeatNgramSize = config.OptionalInteger("no_repeat_ngram_size") ?? none.NoRepeatNgramSize,
        };
        sampling = greedy
            ? sampling with { Temperature = 0 } // what follows shapes a draw, and nothing is drawn
            : sampling with
            {
                Temperature = Single("temperature", none.Temperature),
                TopK = config.OptionalInteger("top_k") ?? none.TopK,
                TopP = Single("top_p", none.TopP),
                MinP = Single("min_p", none.MinP),
                TypicalP = Single("typical_p", none.TypicalP),
                EpsilonCutoff = Single("epsilon_cutoff", none.EpsilonCutoff),
            };
        config.Include(sampling.Validate);
        config.Throw(path);
        return sampling;

        float Single(string name, float byDefault) => (float)(config.OptionalNumber(name) ?? byDefault);
    }

    /// <summary>Writes the file; settings that do nothing are left out.</summary>
    public static void Write(SamplingOptions sampling, TextTokenizer tokenizer, string folder)
    {
        var config = new JsonObject
        {
            ["eos_token_id"] = tokenizer.EndOfText,
            ["max_new_tokens"] = sampling.MaxNewTokens,
            ["do_sample"] = sampling.Temperature > 0,
        };
        if (tokenizer.BeginningOfText is { } beginning)
            config["bos_token_id"] = beginning;
        if (sampling.Temperature > 0)
        {
            config["temperature"] = Written(sampling.Temperature);
            config["top_k"] = sampling.TopK; // its absence would mean 50 there
            Add("top_p", sampling.TopP, 1);
            Add("min_p", sampling.MinP, 0);
            Add("typical_p", sampling.TypicalP, 1);
            Add("epsilon_cutoff", sampling.EpsilonCutoff, 0);
        }
        Add("repetition_penalty", sampling.RepetitionPenalty, 1);
        if (sampling.NoRepeatNgramSize > 0)
            config["no_repeat_ngram_size"] = sampling.NoRepeatNgramSize;
        if (sampling.MinNewTokens > 0)
            config["min_new_tokens"] = sampling.MinNewTokens;
        File.WriteAllText(Path.Combine(folder, FileName), config.ToJsonString(new JsonSerializerOptions { WriteIndented = true }) + "\n");

        void Add(string name, float value, float without)
        {
            if (value != without)
                config[name] = Written(value);
        }
    }

    /// <summary>0.7 as 0.7, and not as the double next to the float.</summary>
    private static decimal Written(float value) => (decimal)value;
}
