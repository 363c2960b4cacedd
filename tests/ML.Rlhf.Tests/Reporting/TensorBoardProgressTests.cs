using System.Buffers.Binary;
using Tensorboard;

namespace ML.Rlhf.Tests.Reporting;

public sealed class TensorBoardProgressTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    /// <summary>
    /// A record of an event file is its length, the masked CRC-32C of that, an Event, and the masked CRC-32C of that (TensorFlow's
    /// record_writer.h). The sums are computed here bit by bit, from the definition.
    /// </summary>
    [Fact]
    public void Each_number_of_each_record_stands_in_an_event_file_with_sound_checksums()
    {
        var progress = new TensorBoardProgress(Path.Combine(_folder, "run"));
        PolicyProgress first = Records.OfPolicy(1, score: 0.25), second = Records.OfPolicy(2, score: 0.75);
        progress.Report(first);
        progress.Report(second);

        var scalars = ReadEvents(Assert.Single(Directory.GetFiles(Path.Combine(_folder, "run"))))
            .Where(e => e.WhatCase == Event.WhatOneofCase.Summary)
            .SelectMany(e => e.Summary.Value.Select(v => (v.Tag, e.Step, v.SimpleValue))).ToArray();

        var expected = new[] { first, second }.SelectMany(
            record => record.ToMetrics().Select(m => ($"PPO/{m.Key}", (long)record.Step, (float)m.Value)));
        Assert.Equal(expected.Order(), scalars.Order());
        Assert.Contains(("PPO/objective/scores", 2L, 0.75f), scalars);
    }

    [Fact]
    public void Nothing_is_written_before_the_first_record()
    {
        _ = new TensorBoardProgress(Path.Combine(_folder, "run"));

        Assert.Empty(Directory.GetFileSystemEntries(_folder));
    }

    private static IEnumerable<Event> ReadEvents(string file)
    {
        byte[] bytes = File.ReadAllBytes(file);
        for (int at = 0; at < bytes.Length;)
        {
            int length = (int)BinaryPrimitives.ReadUInt64LittleEndian(bytes.AsSpan(at));
            Assert.Equal(MaskedCrc(bytes.AsSpan(at, 8)), BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan(at + 8)));
            var content = bytes.AsSpan(at + 12, length);
            Assert.Equal(MaskedCrc(content), BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan(at + 12 + length)));
            yield return Event.Parser.ParseFrom(bytes, at + 12, length);
            at += 16 + length;
        }
    }

    private static uint MaskedCrc(ReadOnlySpan<byte> bytes)
    {
        uint crc = ~0u;
        foreach (byte b in bytes)
        {
            crc ^= b;
            for (int bit = 0; bit < 8; bit++)
                crc = crc >> 1 ^ ((crc & 1) == 0 ? 0 : 0x82F63B78u); // Castagnoli's polynomial, reversed
        }
        crc = ~crc;
        return (crc >> 15 | crc << 17) + 0xA282EAD8u;
    }
}
