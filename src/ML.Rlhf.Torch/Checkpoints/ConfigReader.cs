using System.Text.Json;

namespace ML.Rlhf.Torch.Checkpoints;

/// <summary>
/// Takes values out of a <c>config.json</c>, and collects what is wrong with them, so that one exception reports everything.
/// </summary>
internal sealed class ConfigReader(JsonElement config)
{
    private readonly List<string> _problems = [];

    public bool Has(string name) =>
        config.ValueKind == JsonValueKind.Object && config.TryGetProperty(name, out var value) && value.ValueKind != JsonValueKind.Null;

    public JsonElement this[string name] => config.GetProperty(name);

    /// <summary>A reader of an object in the file, which reports to this one; an absent object has no values.</summary>
    public ConfigReader Section(string name) => new(Has(name) ? config.GetProperty(name) : default, _problems);

    private ConfigReader(JsonElement config, List<string> problems) : this(config) => _problems = problems;

    public int Integer(string name) => OptionalInteger(name) ?? (int)Missing(name, "a whole number");

    public int? OptionalInteger(string name) =>
        Get<int>(name, "a whole number", v => v.TryGetInt32(out int i) ? i : null, JsonValueKind.Number);

    /// <param name="name">The setting.</param>
    /// <param name="absent">Its value where the file does not have it; null in the file is none.</param>
    public int? OptionalInteger(string name, int absent) =>
        config.ValueKind == JsonValueKind.Object && config.TryGetProperty(name, out _) ? OptionalInteger(name) : absent;

    public double Number(string name) => OptionalNumber(name) ?? Missing(name, "a number");

    public double? OptionalNumber(string name) =>
        Get<double>(name, "a number", v => v.TryGetDouble(out double d) ? d : null, JsonValueKind.Number);

    public bool Flag(string name, bool byDefault) =>
        Get<bool>(name, "true or false", v => v.GetBoolean(), JsonValueKind.True, JsonValueKind.False) ?? byDefault;

    /// <summary>A text, or null.</summary>
    public string? Text(string name)
    {
        if (!Has(name))
            return null;
        if (config.GetProperty(name) is { ValueKind: JsonValueKind.String } value)
            return Unescaped(value);
        Problem($"{name} is {Shown(name)}, but must be a text");
        return null;
    }

    /// <summary>Texts; nothing where they are absent.</summary>
    public string[] Texts(string name)
    {
        if (!Has(name))
            return [];
        if (config.GetProperty(name) is { ValueKind: JsonValueKind.Array } value
            && value.EnumerateArray().All(v => v.ValueKind == JsonValueKind.String))
            return [.. value.EnumerateArray().Select(Unescaped)];
        Problem($"{name} is {Shown(name)}, but must be texts");
        return [];
    }

    /// <summary>Reports a setting that changes what a model computes, in a way that is not built here.</summary>
    public void Refuse(bool given, string name, string supported)
    {
        if (given)
            Problem($"{name} is {Shown(name)}, and only {supported} is supported");
    }

    public void Problem(string problem) => _problems.Add(problem);

    /// <summary>Adds what is wrong with a part.</summary>
    public void Include(Action validate)
    {
        try
        {
            validate();
        }
        catch (ArgumentException e)
        {
            _problems.Add(e.Message.TrimEnd('.'));
        }
    }

    /// <exception cref="FormatException">There was at least one problem.</exception>
    public void Throw(string path)
    {
        if (_problems.Count > 0)
            throw new FormatException($"'{path}' describes a model that cannot be loaded: {string.Join("; ", _problems)}.");
    }

    private T? Get<T>(string name, string kind, Func<JsonElement, T?> read, params ReadOnlySpan<JsonValueKind> kinds) where T : struct
    {
        if (!Has(name))
            return null;
        var value = config.GetProperty(name);
        if (kinds.Contains(value.ValueKind) && read(value) is { } result)
            return result;
        Problem($"{name} is {Shown(name)}, but must be {kind}");
        return null;
    }

    private double Missing(string name, string kind)
    {
        if (!Has(name)) // otherwise it was reported
            Problem($"{name} is missing, and must be {kind}");
        return 0;
    }

    private string Shown(string name)
    {
        string text = Has(name) ? config.GetProperty(name).GetRawText() : "missing";
        return text.Length <= 100 ? text : text[..100] + "…";
    }

    private string Unescaped(JsonElement value)
    {
        try
        {
            return value.GetString()!;
        }
        catch (InvalidOperationException) // half of a surrogate pair
        {
            Problem("a text is no Unicode");
            return "";
        }
    }
}
