using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;

namespace ML.Rlhf;

/// <summary>One pass over JSON Lines files: one file open at a time, one line in memory.</summary>
internal sealed class JsonLinesCursor(
    IHost host,
    DataViewSchema schema,
    SourceFiles files,
    JsonLineParser parser,
    JsonLinesOptions options,
    Action<long, string?> finishPass) : DataViewRowCursor
{
    private LineReader? _file;
    private long _fileLength;
    private int _fileIndex = -1;
    private long _position = -1;
    private long _skippedLines;
    private string? _firstProblem;
    private bool _finished;

    public override long Position => _position;

    public override long Batch => 0;

    public override DataViewSchema Schema => schema;

    public override bool IsColumnActive(DataViewSchema.Column column) => parser.IsActive(column.Index);

    public override bool MoveNext()
    {
        while (!_finished && ReadLine())
        {
            if (_file!.IsBlank)
                continue;
            var problem = _file.IsTooLong
                ? $"the line is longer than {options.MaxLineLength} bytes (JsonLinesOptions.MaxLineLength). Raise the limit, or put each " +
                    "object on a line of its own."
                : parser.Parse(_file.Line);
            if (problem == null)
            {
                _position++;
                return true;
            }
            if (_file.Number == 1 && _file.Line.TrimStart(" \t"u8).StartsWith("["u8))
                problem += " A file that is one JSON array is not JSON Lines: write each of its items on a line of its own, " +
                    "for example with \"jq -c '.[]'\".";
            Report(problem);
        }
        Finish();
        return false;
    }

    public override ValueGetter<DataViewRowId> GetIdGetter() => (ref DataViewRowId id) => id = new((ulong)_position, 0);

    public override ValueGetter<TValue> GetGetter<TValue>(DataViewSchema.Column column)
    {
        if (!IsColumnActive(column))
            throw host.Process(new InvalidOperationException($"Column '{column.Name}' was not asked for when this cursor was created."));
        var getter = parser.Getter(column.Index);
        return getter as ValueGetter<TValue> ?? throw host.Process(new InvalidOperationException(
            $"Invalid TValue in GetGetter: '{typeof(TValue)}', expected type: '{getter.GetType().GetGenericArguments()[0]}'."));
    }

    protected override void Dispose(bool disposing)
    {
        if (disposing)
            Finish();
        base.Dispose(disposing);
    }

    /// <summary>Moves to the next line of the files, opening and closing them on the way.</summary>
    private bool ReadLine()
    {
        while (_file == null || !_file.Read())
        {
            CloseFile();
            if (++_fileIndex >= files.Count)
                return false;
            OpenFile();
        }
        if (_file.Number == 1 && FileKind.Problem(_file.Line) is { } problem)
            throw host.Process(new FormatException($"{files.Name(_fileIndex)} {problem}")); // no bad line to skip: there are no lines
        return true;
    }

    private void OpenFile()
    {
        var stream = files.Open(_fileIndex);
        _fileLength = stream.CanSeek ? stream.Length : 0;
        _file = new LineReader(stream, options.MaxLineLength, Cancellation.Check(host));
    }

    private void CloseFile()
    {
        var read = _file?.BytesRead;
        _file?.Dispose();
        _file = null;
        if (read < _fileLength)
            throw host.Process(new IOException(
                $"{files.Name(_fileIndex)} ended after {read} bytes, but had {_fileLength} when it was opened: it was cut off while it " +
                "was read. Restore it, and load the data anew."));
    }

    private void Report(string problem)
    {
        problem = $"{files.Name(_fileIndex)}({_file!.Number}): {problem} Expected {parser.Expectation}";
        if (options.OnBadLine == BadLine.Fail)
            throw host.Process(new FormatException($"{problem}; set JsonLinesOptions.OnBadLine = BadLine.Skip to skip such lines."));
        _skippedLines++;
        _firstProblem ??= problem + ".";
    }

    private void Finish()
    {
        if (_finished)
            return;
        _finished = true;
        _position = -1;
        _file?.Dispose();
        parser.Clear();
        finishPass(_skippedLines, _firstProblem);
    }
}
