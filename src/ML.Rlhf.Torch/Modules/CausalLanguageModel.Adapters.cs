using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Modules;

// Low-rank adapters beside the linear layers, and models that share their weights.
public abstract partial class CausalLanguageModel
{
    internal const string HeadPath = "lm_head";
    private const string AdapterPart = ".lora.";

    /// <summary>
    /// Whether linear layers have adapters (<see cref="LoraOptions"/>). The weights themselves are then frozen, and may be another model's,
    /// too.
    /// </summary>
    internal bool HasAdapters => Adapters.Any();

    internal IEnumerable<LowRankAdapter> Adapters => Projections().Select(p => p.Projection.Adapter).OfType<LowRankAdapter>();

    /// <summary>All linear layers, with their paths.</summary>
    internal IEnumerable<(string Path, Projection Projection)> Projections()
    {
        foreach (var (path, module) in named_modules())
        {
            if (module is Projection projection)
                yield return (path, projection);
        }
    }

    /// <summary>The parameters of the model itself, without those of its adapters.</summary>
    internal IEnumerable<(string Name, Parameter Parameter)> BaseParameters() =>
        named_parameters().Where(p => !p.name.Contains(AdapterPart, StringComparison.Ordinal));

    /// <summary>
    /// A model without adapters on this model's own weights, frozen, in evaluation mode. Each of the two is disposed on its own; the
    /// weights live as long as one of them.
    /// </summary>
    internal CausalLanguageModel ShareWeights()
    {
        var shared = Create(Architecture);
        shared.Freeze();
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        foreach (var parameter in shared.parameters())
            parameter.set_(empty(0)); // a device gets no second copy, not even for a moment
        shared.to(Device);
        foreach (var ((_, to), (_, from)) in shared.BaseParameters().Zip(BaseParameters()))
            to.set_(from.detach());
        return shared;
    }

    /// <summary>The adapters that some options mean.</summary>
    /// <exception cref="ArgumentException">A target is no linear layer of this model; the message lists those that it has.</exception>
    internal IReadOnlyList<AdapterShape> AdapterShapes(LoraOptions options)
    {
        string[] paths = [.. Projections().Select(p => p.Path)];
        string[] targets = [.. options.Targets ?? paths.Where(path => path != HeadPath)];
        string[] unknown = [.. targets.Where(target => !paths.Any(path => Means(target, path)))];
        if (targets.Length == 0)
            throw new ArgumentException($"Lora: a {GetType().Name} of this shape has no linear layer that adapters fit. Train all weights.");
        if (unknown.Length > 0)
            throw new ArgumentException(
                $"Lora.Targets: {string.Join(", ", unknown)} is no linear layer that adapters fit. A {GetType().Name} of this shape has " +
                $"{Known(paths)}; name some of these, by their last part or by the whole path, or none for all of them.");
        return [.. paths.Where(path => targets.Any(target => Means(target, path)))
            .Select(path => new AdapterShape(path, options.Rank, options.Alpha, options.Dropout))];
    }

    /// <summary>Whether a name is a path, or the end of one.</summary>
    internal static bool Means(string target, string path) => path == target || path.EndsWith("." + target, StringComparison.Ordinal);

    private static string Known(string[] paths) =>
        string.Join(", ", paths.Select(path => path[(path.LastIndexOf('.') + 1)..]).Distinct());

    /// <summary>How many numbers adapters have.</summary>
    /// <exception cref="FormatException">A target is no linear layer of this model.</exception>
    internal long AdapterParameterCount(IReadOnlyList<AdapterShape> shapes)
    {
        var projections = Projections().ToDictionary(p => p.Path, p => p.Projection.weight.shape);
        return shapes.Sum(shape => projections.TryGetValue(shape.Target, out long[]? weight)
            ? shape.Rank * (weight[0] + weight[1])
            : throw new FormatException($"An adapter is for '{shape.Target}', which is no linear layer of the model. The file is " +
                "damaged; save the model again."));
    }

    /// <summary>Freezes the weights, and gives linear layers adapters.</summary>
    /// <param name="shapes">The adapters.</param>
    /// <param name="generator">Source of their first weights; null where they are about to be overwritten.</param>
    internal IReadOnlyList<LowRankAdapter> AttachAdapters(IReadOnlyList<AdapterShape> shapes, Generator? generator = null)
    {
        foreach (var (_, parameter) in BaseParameters())
            parameter.requires_grad_(false);
        var projections = Projections().ToDictionary(p => p.Path, p => p.Projection);
        var adapters = new List<LowRankAdapter>();
        foreach (var shape in shapes)
        {
            var projection = projections[shape.Target];
            var adapter = new LowRankAdapter(shape, projection.weight.shape[1], projection.weight.shape[0]);
            if (generator is not null)
                adapter.Initialize(generator);
            projection.Attach(adapter);
            adapters.Add(adapter);
        }
        return adapters;
    }

    /// <summary>Freezes the head that scores tokens, unless it is the embedding.</summary>
    internal void FreezeHead()
    {
        foreach (var (path, head) in Projections().Where(p => p.Path == HeadPath))
            head.weight.requires_grad_(false);
    }

    /// <summary>Copies the weights of a model of the same shape, with what its adapters add to them.</summary>
    private void CopyMerged(CausalLanguageModel source)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        foreach (var ((_, to), (_, from)) in BaseParameters().Zip(source.BaseParameters()))
            to.copy_(from);
        foreach (var ((_, to), (_, from)) in Projections().Zip(source.Projections()))
        {
            if (from.Adapter is { } adapter)
                to.weight.add_(adapter.Matrix(), alpha: 1);
        }
    }
}
