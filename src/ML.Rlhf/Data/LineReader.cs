namespace ML.Rlhf;

/// <summary>Splits a stream into lines without taking more memory than the longest line that is allowed. Owns the stream.</summary>
/// <remarks>
/// A line ends with LF, CR LF or CR. JSON has no bare CR or LF inside a text, so none of them can be a part of one; U+2028 and its like
/// can, and end no line.
/// </remarks>
/// <param name="stream">UTF-8, or what turns out to be something else.</param>
/// <param name="maxLength">The longest line, in bytes.</param>
/// <param name="checkCanceled">Called for each part of the stream that is read; throws to stop.</param>
internal sealed class LineReader(Stream stream, int maxLength, Action checkCanceled) : IDisposable
{
    private static ReadOnlySpan<byte> ByteOrderMark => "\uFEFF"u8;

    private byte[] _buffer = new byte[1 << 16];
    private int _start;         // of what is not yet returned
    private int _end;           // of what was read from the stream
    private int _lineStart;
    private int _lineEnd;
    private bool _isCut;        // the line's end was not reached
    private bool _afterReturn;  // the line before ended with a CR; an LF that follows belongs to it

    /// <summary>Number of the current line, from 1.</summary>
    public long Number { get; private set; }

    /// <summary>Bytes that were read from the stream.</summary>
    public long BytesRead { get; private set; }

    /// <summary>
    /// The current line, without its end and without a byte order mark (files that were put together have one in the middle); valid until
    /// the next <see cref="Read"/>. Of a line that is too long, its beginning.
    /// </summary>
    public ReadOnlySpan<byte> Line => _buffer.AsSpan(_lineStart.._lineEnd);

    /// <summary>Whether the line is longer than allowed. The rest of it is read, and not kept, with the next one.</summary>
    public bool IsTooLong { get; private set; }

    /// <summary>Whether there is nothing but white space in the line.</summary>
    public bool IsBlank => !IsTooLong && Line.IndexOfAnyExcept(" \t"u8) < 0;

    /// <summary>Moves to the next line.</summary>
    /// <returns>False at the end of the stream.</returns>
    public bool Read()
    {
        if (_isCut)
            PassOverRest();
        if (_start == _end && !Fill())
            return false;
        if (_afterReturn && _buffer[_start] == '\n')
            _start++;
        _afterReturn = false;
        if (_start == _end && !Fill())
            return false;

        Number++;
        var end = FindEnd();
        _isCut = end < 0;
        _lineEnd = _isCut ? _end : end;
        _lineStart = _buffer.AsSpan(_start.._lineEnd).StartsWith(ByteOrderMark) ? _start + ByteOrderMark.Length : _start;
        IsTooLong = _lineEnd - _lineStart > maxLength;
        if (_isCut)
            _start = _end;
        else
            PassOverEnd(end);
        return true;
    }

    public void Dispose() => stream.Dispose();

    /// <summary>Finds where the line ends that begins at the start, reading more as it goes.</summary>
    /// <returns>−1 where the line is too long, or the stream ends with it.</returns>
    private int FindEnd()
    {
        var searched = 0; // from _start, without finding the line's end
        while (true)
        {
            var end = IndexOfEnd(_start + searched);
            searched = _end - _start;
            if (end >= 0 || searched > maxLength + ByteOrderMark.Length || !Fill())
                return end;
        }
    }

    private void PassOverRest()
    {
        int end;
        while ((end = IndexOfEnd(_start)) < 0)
        {
            _start = _end;
            if (!Fill())
                return;
        }
        PassOverEnd(end);
    }

    private void PassOverEnd(int end)
    {
        _afterReturn = _buffer[end] == '\r';
        _start = end + 1;
    }

    private int IndexOfEnd(int from)
    {
        var index = _buffer.AsSpan(from.._end).IndexOfAny((byte)'\n', (byte)'\r');
        return index < 0 ? index : from + index;
    }

    /// <summary>Reads more, after making room: by dropping what was returned, or with a larger buffer.</summary>
    private bool Fill()
    {
        checkCanceled();
        if (_start > 0)
        {
            _buffer.AsSpan(_start.._end).CopyTo(_buffer);
            (_start, _end) = (0, _end - _start);
        }
        if (_end == _buffer.Length)
            Array.Resize(ref _buffer, (int)Math.Min(2L * _buffer.Length, Array.MaxLength));
        var read = stream.Read(_buffer.AsSpan(_end));
        _end += read;
        BytesRead += read;
        return read > 0;
    }
}
