using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;
using ML.Rlhf;
using ML.Rlhf.Bridge;

[assembly: ModelComponent(typeof(JsonLinesLoader))]

namespace ML.Rlhf;

/// <summary>
/// Loads JSON Lines files: one JSON object per line, in UTF-8. Made by <see cref="JsonLinesCatalog.CreateJsonLinesLoader{T}"/>, or by
/// ML.NET from a model file that it was saved in.
/// </summary>
public sealed class JsonLinesLoader : IDataLoader<IMultiStreamSource>, IModelComponent<JsonLinesLoader>
{
    private readonly IHost _host;
    private readonly JsonLinesColumn[] _columns;
    private readonly JsonLinesOptions _options;
    private readonly DataViewSchema _schema;
    private long _skippedLines;

    internal JsonLinesLoader(IHostEnvironment env, JsonLinesColumn[] columns, JsonLinesOptions options)
    {
        options.Validate();
        _host = env.Register(nameof(JsonLinesLoader));
        _columns = columns;
        _options = options;
        var schema = new DataViewSchema.Builder();
        foreach (var column in columns)
            schema.AddColumn(column.Name, column.Type);
        _schema = schema.ToSchema();
    }

    /// <summary>
    /// How many lines the latest pass over this loader's data skipped: those that <see cref="BadLine.Skip"/> allows to. A pass that is
    /// still under way does not count yet; one that ended early, as <c>TakeRows</c> does, counts the lines that it reached.
    /// </summary>
    public long SkippedLines => Interlocked.Read(ref _skippedLines);

    /// <summary>The columns: those of the row class, in its order.</summary>
    public DataViewSchema GetOutputSchema() => _schema;

    /// <summary>
    /// Data over files, which are opened only when a pass over the data reaches them. They have to stay as they are: a pass that finds
    /// another file than the pass before throws an <see cref="IOException"/>.
    /// </summary>
    /// <param name="source">For example a <see cref="MultiFileSource"/>.</param>
    public IDataView Load(IMultiStreamSource source)
    {
        ArgumentNullException.ThrowIfNull(source);
        return new View(this, source);
    }

    /// <summary>
    /// Data over files, which are opened only when a pass over the data reaches them. They have to stay as they are: a pass that finds
    /// another file than the pass before throws an <see cref="IOException"/>.
    /// </summary>
    /// <param name="paths">
    /// Files, in the order to be read. The file name may contain the wildcards <c>*</c> and <c>?</c>: the files that match are read in the
    /// (ordinal) order of their names.
    /// </param>
    /// <exception cref="ArgumentException">There is no path.</exception>
    /// <exception cref="FileNotFoundException">There is no such file, or none that matches.</exception>
    public IDataView Load(params string[] paths)
    {
        ArgumentNullException.ThrowIfNull(paths);
        if (paths.Length == 0)
            throw new ArgumentException("Name at least one file, for example \"data/*.jsonl\".", nameof(paths));
        return Load(new MultiFileSource([.. paths.SelectMany(Expand)]));
    }

    static string IModelComponent<JsonLinesLoader>.Id => "JsonLines";

    static int IModelComponent<JsonLinesLoader>.Version => 1;

    static JsonLinesLoader IModelComponent<JsonLinesLoader>.Load(IHostEnvironment env, ModelReader reader)
    {
        var main = reader.Main;
        var options = new JsonLinesOptions { OnBadLine = (BadLine)main.ReadByte(), MaxLineLength = main.ReadInt32() };
        var count = main.ReadInt32();
        var columns = new List<JsonLinesColumn>(); // grows with what the file has, not with what it says
        for (var i = 0; i < count; i++)
            columns.Add(new(main.ReadString(), main.ReadString(), (DataKind)main.ReadByte(), main.ReadBoolean() ? main.ReadInt32() : null));
        if (columns.Count == 0 || !columns.TrueForAll(column => column.IsValid))
            throw new ArgumentException("its columns are not valid");
        return new(env, [.. columns], options);
    }

    void IModelComponent<JsonLinesLoader>.Save(ModelWriter writer)
    {
        var main = writer.Main;
        main.Write((byte)_options.OnBadLine);
        main.Write(_options.MaxLineLength);
        main.Write(_columns.Length);
        foreach (var column in _columns)
        {
            main.Write(column.Name);
            main.Write(column.Field);
            main.Write((byte)column.Kind);
            main.Write(column.Length.HasValue);
            if (column.Length is int length)
                main.Write(length);
        }
    }

    void ICanSaveModel.Save(ModelSaveContext ctx) => ModelStore.Save(ctx, this);

    /// <summary>A path, or the paths that a wildcard in its file name stands for.</summary>
    private static IEnumerable<string> Expand(string path)
    {
        if (File.Exists(path))
            return [path];
        var pattern = Path.GetFileName(path);
        if (!pattern.AsSpan().ContainsAny('*', '?'))
            throw new FileNotFoundException($"There is no file '{path}' (looked for '{Path.GetFullPath(path)}').", path);

        var folder = Path.GetDirectoryName(path) is { Length: > 0 } named ? named : ".";
        var matches = Directory.Exists(folder) ? Directory.GetFiles(folder, pattern) : [];
        if (matches.Length == 0)
            throw new FileNotFoundException($"No file matches '{pattern}' in the folder '{Path.GetFullPath(folder)}'.", path);
        Array.Sort(matches, StringComparer.Ordinal);
        return matches;
    }

    private void FinishPass(long skippedLines, string? firstProblem)
    {
        Interlocked.Exchange(ref _skippedLines, skippedLines);
        if (skippedLines == 0)
            return;
        using var channel = _host.Start("Reading JSON Lines");
        channel.Warning(MessageSensitivity.UserData, $"Skipped {skippedLines} bad lines. The first: {firstProblem}");
    }

    private sealed class View(JsonLinesLoader loader, IMultiStreamSource source) : IDataView
    {
        private readonly SourceFiles _files = new(source);

        public bool CanShuffle => false;

        public DataViewSchema Schema => loader._schema;

        public long? GetRowCount() => null;

        public DataViewRowCursor GetRowCursor(IEnumerable<DataViewSchema.Column> columnsNeeded, Random? rand = null)
        {
            var active = columnsNeeded.Select(column => column.Index).ToHashSet();
            var parser = new JsonLineParser(loader._columns, active.Contains);
            return new JsonLinesCursor(loader._host, loader._schema, _files, parser, loader._options, loader.FinishPass);
        }

        public DataViewRowCursor[] GetRowCursorSet(IEnumerable<DataViewSchema.Column> columnsNeeded, int n, Random? rand = null) =>
            [GetRowCursor(columnsNeeded, rand)];
    }
}
