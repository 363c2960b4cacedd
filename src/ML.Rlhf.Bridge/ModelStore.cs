using System.Reflection;
using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;
using ML.Rlhf.Bridge;

// What ML.NET looks up when a model file names one of our loaders. It finds this assembly by its name in the file: no call is needed.
[assembly: LoadableClass(typeof(ITransformer), typeof(LoadableTransformer), null, typeof(SignatureLoadModel),
    "ML.Rlhf transformer", LoadableTransformer.Signature)]
[assembly: LoadableClass(typeof(IDataLoader<IMultiStreamSource>), typeof(LoadableDataLoader), null, typeof(SignatureLoadModel),
    "ML.Rlhf data loader", LoadableDataLoader.Signature)]

namespace ML.Rlhf.Bridge;

/// <summary>
/// Saves and loads components in ML.NET's own model files. A component's main stream starts with three values: the simple name of its
/// assembly, its <see cref="IModelComponent{TSelf}.Id"/> and its <see cref="IModelComponent{TSelf}.Version"/>; the rest is the component's
/// own.
/// </summary>
internal static class ModelStore
{
    /// <summary>The body of a component's <c>ICanSaveModel.Save</c>.</summary>
    public static void Save<T>(ModelSaveContext context, T self) where T : IModelComponent<T>
    {
        context.CheckAtModel();
        context.SetVersionInfo(Envelope(self is ITransformer ? LoadableTransformer.Signature : LoadableDataLoader.Signature));
        context.Writer.Write(typeof(T).Assembly.GetName().Name!);
        context.Writer.Write(T.Id);
        context.Writer.Write(T.Version);
        self.Save(new ModelWriter(context));
    }

    /// <summary>Loads whichever component the file names, provided that it is declared and is a <typeparamref name="TSlot"/>.</summary>
    /// <exception cref="FormatException">
    /// The file names something that may not, or cannot, be loaded. ML.NET calls us by reflection and wraps what we throw, once per level
    /// of a chain ("Error during class instantiation"); so these errors have no inner exception, and <c>GetBaseException()</c> finds them.
    /// </exception>
    internal static TSlot Load<TSlot>(IHostEnvironment env, ModelLoadContext context, string signature) where TSlot : class
    {
        context.CheckAtModel(Envelope(signature));
        var assembly = context.Reader.ReadString();
        var id = context.Reader.ReadString();
        var version = context.Reader.ReadInt32();

        var component = FindDeclared<TSlot>(env, assembly, id);
        if (version > component.Version)
        {
            throw env.Process(new FormatException($"Model component '{id}' version {version} is newer than this library " +
                $"({component.Version}). Update the ML.Rlhf package to read it."));
        }
        try
        {
            var loaded = (TSlot)component.Load(env, new ModelReader(env, context, id, version));
            if (loaded is IDisposable disposable)
                t_loaded?.Add(disposable);
            return loaded;
        }
        catch (Exception e) when (e is ArgumentException or OverflowException)
        {
            throw env.Process(new FormatException($"Model component '{id}' is damaged in this file ({e.Message}): save the model " +
                "again, or get a whole copy."));
        }
        catch (EndOfStreamException)
        {
            throw env.Process(new FormatException(
                $"Model component '{id}' ends early in this file. Save the model again, or get a whole copy."));
        }
    }

    /// <summary>
    /// Loads something of which our components are parts. Where that fails halfway, ML.NET forgets the components that it has loaded by
    /// then; here they are disposed.
    /// </summary>
    public static T LoadWhole<T>(Func<T> load)
    {
        var outer = t_loaded;
        var loaded = t_loaded = [];
        try
        {
            return load();
        }
        catch
        {
            loaded.ForEach(component => component.Dispose());
            throw;
        }
        finally
        {
            t_loaded = outer;
        }
    }

    /// <summary>What <see cref="LoadWhole"/> has loaded so far, on this thread.</summary>
    [ThreadStatic]
    private static List<IDisposable>? t_loaded;

    /// <summary>
    /// The version of the three values above. The assembly is named without its own version, with which an older package could not read a
    /// newer file.
    /// </summary>
    private static VersionInfo Envelope(string loaderSignature) => new(
        modelSignature: "RLHFCOMP",
        verWrittenCur: 0x00010001,
        verReadableCur: 0x00010001,
        verWeCanReadBack: 0x00010001,
        loaderAssemblyName: typeof(ModelStore).Assembly.GetName().Name,
        loaderSignature: loaderSignature);

    private static IComponent FindDeclared<TSlot>(IHostEnvironment env, string assemblyName, string id)
    {
        foreach (var declared in LoadAssembly(env, assemblyName, id).GetCustomAttributes<ModelComponentAttribute>())
        {
            var component = (IComponent)Activator.CreateInstance(typeof(Component<>).MakeGenericType(declared.Type))!;
            if (component.Id == id && declared.Type.IsAssignableTo(typeof(TSlot)))
                return component;
        }
        throw env.Process(new FormatException(
            $"Assembly '{assemblyName}' declares no model component '{id}' that is an {typeof(TSlot).Name}. " +
            "Update the ML.Rlhf package, or check where this file comes from."));
    }

    /// <summary>A file may name an assembly of the application; it may not say where from, nor in which version.</summary>
    private static Assembly LoadAssembly(IHostEnvironment env, string name, string id)
    {
        if (name.Length == 0 || !name.All(c => char.IsAsciiLetterOrDigit(c) || c is '.' or '_' or '-'))
        {
            throw env.Process(new FormatException(
                $"'{name}' is not an assembly's simple name, so model component '{id}' cannot be loaded."));
        }
        try
        {
            return Assembly.Load(new AssemblyName(name));
        }
        catch (Exception e) when (e is IOException or BadImageFormatException)
        {
            throw env.Process(new FormatException(
                $"Model component '{id}' needs assembly '{name}'. {e.Message} Reference the package that contains it."));
        }
    }

    /// <summary>A component's static members, without its type parameter.</summary>
    private interface IComponent
    {
        string Id { get; }

        int Version { get; }

        object Load(IHostEnvironment env, ModelReader reader);
    }

    private sealed class Component<T> : IComponent where T : IModelComponent<T>
    {
        public string Id => T.Id;

        public int Version => T.Version;

        public object Load(IHostEnvironment env, ModelReader reader) => T.Load(env, reader);
    }
}

/// <summary>ML.NET calls <see cref="Create"/>, by reflection, for a file's transformers.</summary>
internal static class LoadableTransformer
{
    internal const string Signature = "RlhfTransformer"; // part of the file format; at most 24 characters

    private static ITransformer Create(IHostEnvironment env, ModelLoadContext context) =>
        ModelStore.Load<ITransformer>(env, context, Signature);
}

/// <summary>ML.NET calls <see cref="Create"/>, by reflection, for a file's data loader.</summary>
internal static class LoadableDataLoader
{
    internal const string Signature = "RlhfDataLoader"; // part of the file format; at most 24 characters

    private static IDataLoader<IMultiStreamSource> Create(IHostEnvironment env, ModelLoadContext context) =>
        ModelStore.Load<IDataLoader<IMultiStreamSource>>(env, context, Signature);
}
