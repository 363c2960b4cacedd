using System.Buffers.Binary;
using System.Text;
using ML.Rlhf.Torch.Checkpoints;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace ML.Rlhf.Torch.Tests.Checkpoints;

public class SafetensorsTests
{
    private const string GoodWeight = """ "weight":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]} """;

    private static readonly GptArchitecture s_smallest = new() { Layers = 1, Heads = 1, Width = 2, ContextLength = 2, VocabularySize = 2 };

    [Fact]
    public void A_round_trip_keeps_every_bit()
    {
        var model = TinyGpt.RandomScalar(seed: 1);
        using (no_grad())
        {
            var numbers = model.parameters().First();
            numbers[0, 0] = float.NaN;
            numbers[0, 1] = float.NegativeInfinity;
            numbers[0, 2] = float.Epsilon;
            numbers[0, 3] = -0f;
        }

        var copy = TinyGpt.RandomScalar(seed: 2);
        Safetensors.Read(new MemoryStream(Written(model)), copy);

        AssertSameBits(model, copy);
    }

    [Fact]
    public void A_tensor_larger_than_one_chunk_survives()
    {
        Module model = Linear(1500, 1000), copy = Linear(1500, 1000); // 6 MB

        Safetensors.Read(new MemoryStream(Written(model)), copy);

        AssertSameBits(model, copy);
    }

    [Fact]
    public void Parameters_that_an_optimiser_holds_as_views_are_written_and_read_like_any_others()
    {
        var model = TinyGpt.Random(seed: 1);
        byte[] before = Written(model);
        using var optimizer = new AdamW(new PlainOptions(), model);
        Assert.Equal(before, Written(model));

        using (no_grad())
            foreach (var parameter in model.parameters())
                parameter.zero_();
        Safetensors.Read(new MemoryStream(before), model);

        Assert.Equal(before, Written(model));
    }

    /// <summary>An independent reader (the tests' own) and the format's promises: alignment, and not a byte without an owner.</summary>
    [Fact]
    public void The_file_is_the_format()
    {
        var model = TinyGpt.Random(seed: 1);
        string path = Path.GetTempFileName();
        try
        {
            File.WriteAllBytes(path, Written(model));

            var tensors = Golden.Tensors(path);

            Assert.Equal(model.named_parameters().Select(p => p.name).Order(), tensors.Keys.Order());
            foreach (var (name, parameter) in model.named_parameters())
                Close.Assert(parameter, tensors[name], what: name);
            long header = BinaryPrimitives.ReadInt64LittleEndian(File.ReadAllBytes(path));
            Assert.Equal(0, header % 8);
            Assert.Equal(8 + header + 4 * model.Architecture.ParameterCount, new FileInfo(path).Length);
        }
        finally
        {
            File.Delete(path);
        }
    }

    [Fact]
    public void A_file_that_another_library_wrote_is_read_whatever_the_order_of_its_header()
    {
        var model = Linear(2, 1);

        Safetensors.Read(
            File_(
                """
                {"__metadata__":{"format":"pt"},
                 "weight":{"dtype":"F32","shape":[1,2],"data_offsets":[4,12]},
                 "bias":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}
                """,
                [7, 8, 9]),
            model);

        Close.Assert(tensor(new float[,] { { 8, 9 } }), model.weight!);
        Close.Assert(tensor(new float[] { 7 }), model.bias!);
    }

    [Fact]
    public void Every_truncation_is_a_format_error_that_says_what_to_do()
    {
        byte[] file = Written(new Gpt(s_smallest));
        var model = new Gpt(s_smallest);

        for (int length = 0; length < file.Length; length++)
        {
            var error = Assert.Throws<FormatException>(() => Safetensors.Read(new MemoryStream(file, 0, length), model));
            Assert.StartsWith("The weights (safetensors) cannot be read: ", error.Message);
            Assert.EndsWith("The file is damaged or belongs to another model; save or copy it again.", error.Message);
        }
    }

    [Fact]
    public void A_header_with_any_one_byte_changed_is_read_or_is_a_format_error()
    {
        byte[] file = Written(new Gpt(s_smallest));
        int headerEnd = 8 + (int)BinaryPrimitives.ReadInt64LittleEndian(file);
        var model = new Gpt(s_smallest);
        var random = new RandomStream(1);
        int refused = 0;

        for (int i = 0; i < headerEnd; i++)
        {
            byte[] changed = [.. file];
            changed[i] ^= (byte)(1 + random.NextInt32(255));
            try
            {
                Safetensors.Read(new MemoryStream(changed), model);
            }
            catch (FormatException)
            {
                refused++;
            }
        }

        Assert.InRange(refused, headerEnd * 9 / 10, headerEnd);
    }

    [Theory]
    [InlineData("{" + GoodWeight + ""","bias":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}""", "starts at byte 4")]
    [InlineData("{" + GoodWeight + ""","bias":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}}""", "starts at byte 12")]
    [InlineData("""{"weight":{"dtype":"F16","shape":[1,2],"data_offsets":[0,4]}}""", "has type F16")]
    [InlineData("""{"weight":{"dtype":"F32","shape":[1,2],"data_offsets":[0,4]}}""", "does not fill its bytes")]
    [InlineData("""{"weight":{"dtype":"F32","shape":[9223372036854775807,2],"data_offsets":[0,8]}}""", "is longer than any file")]
    [InlineData("""{"weight":{"dtype":"F32","shape":[-1,-2],"data_offsets":[0,8]}}""", "has '-1' in shape")]
    [InlineData("""{"weight":{"dtype":"F32","shape":[1,2]}}""", "has no data_offsets")]
    [InlineData("""{"weight":7}""", "is no object")]
    [InlineData("[]", "header is not valid")]
    public void A_header_that_lies_is_a_format_error(string header, string says)
    {
        var error = Assert.Throws<FormatException>(() => Safetensors.Read(File_(header, [1, 2, 3]), Linear(2, 1)));

        Assert.Contains(says, error.Message);
    }

    [Fact]
    public void A_header_that_claims_more_than_the_format_allows_is_refused_before_memory_is_taken()
    {
        var length = new byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(length, ulong.MaxValue);

        var error = Assert.Throws<FormatException>(() => Safetensors.Read(new MemoryStream(length), Linear(2, 1)));

        Assert.Contains("claims 18446744073709551615 bytes", error.Message);
    }

    [Fact]
    public void A_file_of_another_shape_lists_every_problem_and_changes_nothing()
    {
        var model = TinyGpt.Random(seed: 1);
        byte[] before = Written(model);
        byte[] other = Written(TinyGpt.Fresh(0, TinyGpt.Architecture with { Layers = 1, VocabularySize = 20, ContextLength = 30 }));

        var error = Assert.Throws<FormatException>(() => Safetensors.Read(new MemoryStream(other), model));

        Assert.Contains("'wte.weight' is [20, 16], but the model has [19, 16]", error.Message);
        Assert.Contains("'wpe.weight' is [30, 16], but the model has [24, 16]", error.Message);
        Assert.Equal(12, error.Message.Split("is missing").Length - 1);
        Assert.Contains("'h.1.mlp.c_proj.bias' is missing", error.Message);
        Assert.Equal(before, Written(model));

        error = Assert.Throws<FormatException>(() => Safetensors.Read(new MemoryStream(Written(TinyGpt.RandomScalar())), model));
        Assert.Contains("'transformer.wte.weight' is not part of the model", error.Message);
    }

    [Fact]
    public void A_stream_that_cannot_seek_and_gives_little_at_a_time_is_read_and_left_where_the_weights_end()
    {
        var model = TinyGpt.Random(seed: 1);
        byte[] file = [.. Written(model), 42];
        var copy = TinyGpt.Random(seed: 2);
        using var stream = new Trickle(file);

        Safetensors.Read(stream, copy);

        AssertSameBits(model, copy);
        Assert.Equal(42, stream.ReadByte());
    }

    [Fact]
    public void Reading_and_writing_leave_no_tensor_behind()
    {
        var model = TinyGpt.Random();
        byte[] file = Written(model);

        LiveTensors.AssertNoneLeftBy(() => Written(model));
        LiveTensors.AssertNoneLeftBy(() => Safetensors.Read(new MemoryStream(file), model));
    }

    private static byte[] Written(Module model)
    {
        using var stream = new MemoryStream();
        Safetensors.Write(stream, model);
        return stream.ToArray();
    }

    private static MemoryStream File_(string header, float[] numbers)
    {
        byte[] json = Encoding.UTF8.GetBytes(header), file = new byte[8 + json.Length + numbers.Length * 4];
        BinaryPrimitives.WriteInt64LittleEndian(file, json.Length);
        json.CopyTo(file, 8);
        for (int i = 0; i < numbers.Length; i++)
            BinaryPrimitives.WriteSingleLittleEndian(file.AsSpan(8 + json.Length + i * 4), numbers[i]);
        return new MemoryStream(file);
    }

    private static void AssertSameBits(Module expected, Module actual)
    {
        foreach (var ((name, a), (_, b)) in expected.named_parameters().Zip(actual.named_parameters()))
            Close.AssertSameBits(a, b, name);
    }

    /// <summary>A stream such as a zip entry or a socket.</summary>
    private sealed class Trickle(byte[] bytes) : MemoryStream(bytes)
    {
        public override bool CanSeek => false;

        public override int Read(byte[] buffer, int offset, int count) => base.Read(buffer, offset, Math.Min(count, 5));

        public override int Read(Span<byte> buffer) => base.Read(buffer[..Math.Min(buffer.Length, 5)]);
    }
}
