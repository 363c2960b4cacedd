using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Training;

/// <summary>Something that a run needs back as it was, to go on as if it had never stopped.</summary>
internal interface IResumable
{
    /// <summary>Names all that changes while the run goes on. The same lines save and restore it, so neither can forget anything.</summary>
    void Visit(StateVisitor state);

    /// <summary>Differs after each change that a step makes: where it is equal, so is the state.</summary>
    int Version => 0;

    /// <summary>Whether a run could go on from this state.</summary>
    bool IsFinite => true;
}

/// <summary>What changes in a loop itself, such as its randomness.</summary>
/// <param name="visit">Names it.</param>
internal sealed class Resumable(Action<StateVisitor> visit) : IResumable
{
    public void Visit(StateVisitor state) => visit(state);

    public int Version
    {
        get
        {
            var values = new JsonObject();
            visit(StateVisitor.Save(values, (_, _) => { }));
            return values.ToJsonString().GetHashCode(StringComparison.Ordinal);
        }
    }
}

/// <summary>Saves or restores what <see cref="IResumable"/>s name: tensors one by one, numbers and records as one JSON object.</summary>
internal sealed class StateVisitor
{
    private static readonly JsonSerializerOptions s_json = new()
    {
        IncludeFields = true,
        NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals, // a range that is still empty goes from ∞ to −∞
    };

    private readonly JsonObject _values;
    private readonly Action<string, Tensor> _tensor;
    private readonly bool _restores;
    private string _prefix = "";

    private StateVisitor(JsonObject values, Action<string, Tensor> tensor, bool restores)
    {
        _values = values;
        _tensor = tensor;
        _restores = restores;
    }

    /// <summary>One that saves.</summary>
    /// <param name="values">Receives numbers and records.</param>
    /// <param name="tensor">Receives each tensor; it belongs to its owner.</param>
    public static StateVisitor Save(JsonObject values, Action<string, Tensor> tensor) => new(values, tensor, restores: false);

    /// <summary>One that restores.</summary>
    /// <param name="values">What was saved.</param>
    /// <param name="tensor">Fills each tensor.</param>
    public static StateVisitor Restore(JsonObject values, Action<string, Tensor> tensor) => new(values, tensor, restores: true);

    /// <summary>Visits a part, whose names stand behind its own.</summary>
    public void Part(string name, IResumable? part)
    {
        string outer = _prefix;
        _prefix += name + ".";
        part?.Visit(this);
        _prefix = outer;
    }

    public void Tensor(string name, Tensor values) => _tensor(_prefix + name, values);

    /// <summary>A number, a text, or a record or list of such.</summary>
    /// <exception cref="FormatException">Nothing of that name was saved.</exception>
    public void Value<T>(string name, ref T value)
    {
        if (!_restores)
            _values[_prefix + name] = JsonSerializer.SerializeToNode(value, s_json);
        else if (_values.TryGetPropertyValue(_prefix + name, out var saved))
            value = saved.Deserialize<T>(s_json)!;
        else
            throw new FormatException(
                $"The state has no '{_prefix + name}'. It was saved by another version of this library, or with other options.");
    }
}
