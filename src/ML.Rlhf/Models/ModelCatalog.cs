using System.Reflection;
using System.Runtime.ExceptionServices;
using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;
using ML.Rlhf.Bridge;

namespace ML.Rlhf;

/// <summary>Models from files: <c>ml.Rlhf().Models</c>.</summary>
public sealed partial class ModelCatalog
{
    private readonly MLContext _context;

    internal ModelCatalog(MLContext context) => _context = context;

    /// <summary>
    /// Loads one component of a model.zip with its own type, wherever in the pipeline it stands, to generate with or to train further.
    /// The steps around it are left out: <c>ml.Model.Load</c> loads the whole pipeline.
    /// </summary>
    /// <typeparam name="TTransformer"><see cref="TextGenerationTransformer"/>, <see cref="RewardTransformer"/> or another
    /// transformer.</typeparam>
    /// <param name="path">A file that <c>ml.Model.Save</c> wrote.</param>
    /// <returns>The last component of that type.</returns>
    /// <exception cref="FileNotFoundException">There is no such file.</exception>
    /// <exception cref="FormatException">The file is damaged or incomplete, was written by a newer version, or has no such
    /// component.</exception>
    /// <exception cref="InvalidOperationException">The context asks for a GPU that is not there.</exception>
    public TTransformer Load<TTransformer>(string path) where TTransformer : class, ITransformer
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        if (!File.Exists(path))
            throw new FileNotFoundException($"There is no model file '{Path.GetFullPath(path)}'. Check the path, or save a model there " +
                "with ml.Model.Save.", path);
        ITransformer[] components = [.. Components(Load(path))];
        var wanted = components.OfType<TTransformer>().LastOrDefault();
        foreach (var other in components.Where(component => component != wanted))
            (other as IDisposable)?.Dispose();
        return wanted ?? throw ((IHostEnvironment)_context).Process(new FormatException(
            $"'{path}' has no {typeof(TTransformer).Name}, but {string.Join(", ", components.Select(c => c.GetType().Name))}. " +
            "Ask for one of these, or load another file."));
    }

    private ITransformer Load(string path)
    {
        try
        {
            ModelFile.RequireOrdinary(path);
            return ModelStore.LoadWhole(() => _context.Model.Load(path, out _));
        }
        catch (Exception e)
        {
            var cause = Cause(e);
            if (cause is FormatException && cause != e)
                throw ((IHostEnvironment)_context).Process(new FormatException($"'{path}' cannot be loaded: {cause.Message}", e));
            if (IsOfTheFile(cause) || cause == e && e is InvalidOperationException)
                throw ((IHostEnvironment)_context).Process(new FormatException(
                    $"'{path}' is no model.zip, or not a whole one: {cause.Message.TrimEnd('.')}. The file is damaged or was not copied " +
                    "completely; copy or save it again.", e));
            ExceptionDispatchInfo.Throw(cause);
            throw;
        }
    }

    /// <summary>
    /// What ML.NET throws at damage of its own parts: names of assemblies that are none or not there, numbers out of their ranges. The
    /// file was found before, so what is not found is something that it names.
    /// </summary>
    private static bool IsOfTheFile(Exception cause) => cause is FormatException or InvalidDataException or EndOfStreamException
        or ArgumentException or FileNotFoundException or FileLoadException or BadImageFormatException or OverflowException
        or InvalidCastException or NotSupportedException;

    /// <summary>
    /// What a component's loading threw. ML.NET calls it by reflection and wraps what it throws, once per level of a chain.
    /// </summary>
    private static Exception Cause(Exception e) =>
        e is TargetInvocationException or InvalidOperationException { InnerException: TargetInvocationException }
            && e.InnerException is { } inner
            ? Cause(inner)
            : e;

    private static IEnumerable<ITransformer> Components(ITransformer model) =>
        model is TransformerChain<ITransformer> chain ? chain.SelectMany(Components) : [model];
}
