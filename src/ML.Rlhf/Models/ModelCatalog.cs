using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;

namespace ML.Rlhf;

/// <summary>Models from files: <c>ml.Rlhf().Models</c>.</summary>
public sealed class ModelCatalog
{
    private readonly MLContext _context;

    internal ModelCatalog(MLContext context) => _context = context;

    /// <summary>
    /// Loads one component of a model.zip with its own type, wherever in the pipeline it stands, to generate with or to train further.
    /// <c>ml.Model.Load</c> loads the whole pipeline.
    /// </summary>
    /// <typeparam name="TTransformer"><see cref="TextGenerationTransformer"/>, <see cref="RewardTransformer"/> or another transformer.</typeparam>
    /// <param name="path">A file that <c>ml.Model.Save</c> wrote.</param>
    /// <returns>The last component of that type.</returns>
    /// <exception cref="FileNotFoundException">There is no such file.</exception>
    /// <exception cref="FormatException">The file is damaged or incomplete, was written by a newer version, or has no such component.</exception>
    public TTransformer Load<TTransformer>(string path) where TTransformer : class, ITransformer
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        if (!File.Exists(path))
            throw new FileNotFoundException($"There is no model file '{Path.GetFullPath(path)}'. Check the path, or save a model there with ml.Model.Save.", path);
        ITransformer model;
        try
        {
            model = _context.Model.Load(path, out _);
        }
        catch (InvalidDataException e)
        {
            throw ((IHostEnvironment)_context).Process(new FormatException(
                $"'{path}' is not a whole model.zip: {e.Message} The file is damaged or was not copied completely; copy or save it again.", e));
        }
        return Components(model).OfType<TTransformer>().LastOrDefault() ?? throw ((IHostEnvironment)_context).Process(new FormatException(
            $"'{path}' has no {typeof(TTransformer).Name}, but {string.Join(", ", Components(model).Select(c => c.GetType().Name))}. " +
            "Ask for one of these, or load another file."));
    }

    private static IEnumerable<ITransformer> Components(ITransformer model) =>
        model is TransformerChain<ITransformer> chain ? chain.SelectMany(Components) : [model];
}
