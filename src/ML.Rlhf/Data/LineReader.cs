namespace ML.Rlhf;

/// <summary>Splits a stream into lines without taking more memory than the longest line that is allowed. Owns the stream.</summary>
internal sealed class LineReader(Stream stream, int maxLength) : IDisposable
{
    private byte[] _buffer = new byte[1 << 16];
    private int _start;         // of what is not yet returned
    private int _end;           // of what was read from the stream
    private int _lineStart;
    private int _lineEnd;

    /// <summary>Number of the current line, from 1.</summary>
    public long Number { get; private set; }

    /// <summary>
    /// The current line without its end (LF or CR LF) and without a byte order mark; valid until the next <see cref="Read"/>.
    /// </summary>
    public ReadOnlySpan<byte> Line => _buffer.AsSpan(_lineStart.._lineEnd);

    /// <summary>Whether the line was longer than allowed; <see cref="Line"/> is empty then.</summary>
    public bool IsTooLong { get; private set; }

    /// <summary>Whether there is nothing but white space in the line.</summary>
    public bool IsBlank => !IsTooLong && Line.IndexOfAnyExcept(" \t\r"u8) < 0;

    /// <summary>Moves to the next line.</summary>
    /// <returns>False at the end of the stream.</returns>
    public bool Read()
    {
        Number++;
        IsTooLong = false;
        var searched = 0; // from _start, without finding the line's end
        while (true)
        {
            var newline = _buffer.AsSpan((_start + searched).._end).IndexOf((byte)'\n');
            if (newline >= 0)
            {
                newline += _start + searched;
                SetLine(newline);
                _start = newline + 1;
                return true;
            }
            if (_end - _start > maxLength + 4) // a CR and a byte order mark may still be taken off
            {
                IsTooLong = true;
                _start = _end;
            }
            searched = _end - _start;
            if (!Fill())
            {
                var any = _end > _start || IsTooLong;
                SetLine(_end);
                _start = _end;
                return any;
            }
        }
    }

    public void Dispose() => stream.Dispose();

    private void SetLine(int end)
    {
        var line = _buffer.AsSpan(_start..end);
        if (line.EndsWith("\r"u8))
            end--;
        _lineStart = Number == 1 && line.StartsWith("\uFEFF"u8) ? _start + 3 : _start;
        IsTooLong |= end - _lineStart > maxLength;
        _lineEnd = IsTooLong ? _lineStart : end;
    }

    /// <summary>Reads more, after making room: by dropping what was returned, or with a larger buffer.</summary>
    private bool Fill()
    {
        if (_start > 0)
        {
            _buffer.AsSpan(_start.._end).CopyTo(_buffer);
            (_start, _end) = (0, _end - _start);
        }
        if (_end == _buffer.Length)
            Array.Resize(ref _buffer, (int)Math.Min(2L * _buffer.Length, Array.MaxLength));
        var read = stream.Read(_buffer.AsSpan(_end));
        _end += read;
        return read > 0;
    }
}
