namespace ML.Rlhf.Bridge;

/// <summary>
/// A named stream of a model file, as components see it. Reads and writes go through in pieces of at most 64 MB, so that one call over a
/// large buffer never makes another large buffer below; and closing it does not close ML.NET's stream (<c>torch.nn.Module.save</c> closes
/// what it is given).
/// </summary>
internal sealed class EntryStream(Stream inner) : Stream
{
    private const int MaxPiece = 64 << 20;

    public override bool CanRead => inner.CanRead;

    public override bool CanSeek => inner.CanSeek;

    public override bool CanWrite => inner.CanWrite;

    public override long Length => inner.Length;

    public override long Position
    {
        get => inner.Position;
        set => inner.Position = value;
    }

    public override int Read(byte[] buffer, int offset, int count) => Read(buffer.AsSpan(offset, count));

    public override int Read(Span<byte> buffer) => inner.Read(buffer[..Math.Min(buffer.Length, MaxPiece)]);

    public override void Write(byte[] buffer, int offset, int count) => Write(buffer.AsSpan(offset, count));

    public override void Write(ReadOnlySpan<byte> buffer)
    {
        while (buffer.Length > MaxPiece)
        {
            inner.Write(buffer[..MaxPiece]);
            buffer = buffer[MaxPiece..];
        }
        inner.Write(buffer);
    }

    public override long Seek(long offset, SeekOrigin origin) => inner.Seek(offset, origin);

    public override void SetLength(long value) => inner.SetLength(value);

    public override void Flush() => inner.Flush();
}
