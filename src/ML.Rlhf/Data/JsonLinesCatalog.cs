using Microsoft.ML;
using Microsoft.ML.Data;
using ML.Rlhf.Bridge;

namespace ML.Rlhf;

/// <summary>JSON Lines beside the loaders of <c>ml.Data</c>: files with one JSON object per line, in UTF-8.</summary>
public static class JsonLinesCatalog
{
    /// <summary>Loads JSON Lines files, lazily: nothing is read before the data is, and then one line at a time.</summary>
    /// <typeparam name="T">
    /// The row class. Its public properties and fields are the columns: <c>string</c>, <c>float</c>, <c>double</c>, <c>int</c>,
    /// <c>long</c>, <c>bool</c>, and arrays of them; a list of objects, such as a conversation, goes into a <c>string</c> as it is. As
    /// everywhere in ML.NET, <c>[ColumnName]</c> names the column, <c>[NoColumn]</c> leaves a member out and <c>[VectorType(n)]</c> fixes
    /// the length of an array. A column's field in the JSON is named like the member, or as <c>[JsonPropertyName]</c> says; a field of
    /// exactly that name is taken before one that differs in case. Every field is required, once.
    /// </typeparam>
    /// <param name="catalog"><c>ml.Data</c>.</param>
    /// <param name="paths">
    /// Files, in the order to be read. The file name may contain the wildcards <c>*</c> and <c>?</c>: the files that match are read in the
    /// (ordinal) order of their names.
    /// </param>
    /// <exception cref="ArgumentException"><typeparamref name="T"/> has a member of another type, or there is no path.</exception>
    /// <exception cref="FileNotFoundException">There is no such file, or none that matches.</exception>
    /// <remarks>
    /// Reading throws a <see cref="FormatException"/> at the first line that lacks a field or is no JSON;
    /// <see cref="JsonLinesOptions.OnBadLine"/> can skip such lines. Lines end with LF, CR LF or CR; blank ones are ignored. Rows come in
    /// the order of the files: trainers of this pack shuffle for themselves. Each pass over the data reads the files again, and throws an
    /// <see cref="IOException"/> where one was changed or removed since the first.
    /// </remarks>
    public static IDataView LoadFromJsonLines<T>(this DataOperationsCatalog catalog, params string[] paths) =>
        catalog.CreateJsonLinesLoader<T>().Load(paths);

    /// <summary>Loads a JSON Lines file, or those that match a wildcard, as the options say.</summary>
    /// <inheritdoc cref="LoadFromJsonLines{T}(DataOperationsCatalog, string[])"/>
    /// <param name="catalog"><c>ml.Data</c>.</param>
    /// <param name="path">A file. Its name may contain the wildcards <c>*</c> and <c>?</c>.</param>
    /// <param name="options">How to read it.</param>
    public static IDataView LoadFromJsonLines<T>(this DataOperationsCatalog catalog, string path, JsonLinesOptions options) =>
        catalog.CreateJsonLinesLoader<T>(options).Load(path);

    /// <summary>
    /// Creates a loader of JSON Lines files, which can be saved with a model: <c>ml.Model.Save(model, loader, path)</c> and
    /// <c>ml.Model.LoadWithDataLoader(path, out loader)</c>.
    /// </summary>
    /// <inheritdoc cref="LoadFromJsonLines{T}(DataOperationsCatalog, string[])"/>
    /// <param name="catalog"><c>ml.Data</c>.</param>
    /// <param name="options">How to read; null for the defaults.</param>
    /// <exception cref="ArgumentException">
    /// <typeparamref name="T"/> has a member of another type, or an option is out of its range.
    /// </exception>
    public static JsonLinesLoader CreateJsonLinesLoader<T>(this DataOperationsCatalog catalog, JsonLinesOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(catalog);
        return new(HostInfo.Of(catalog), JsonLinesColumn.OfType(typeof(T)), options ?? new());
    }
}
