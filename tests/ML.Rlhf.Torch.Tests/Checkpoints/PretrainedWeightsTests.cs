using ML.Rlhf.Torch.Checkpoints;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace ML.Rlhf.Torch.Tests.Checkpoints;

/// <summary>Reading folders in the Hugging Face layout: what is in them arrives bit for bit, wherever it shall go.</summary>
public sealed class PretrainedWeightsTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;

    private string Single => Path.Combine(_folder, "model.safetensors");

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    /// <summary>Counts and sums (of all numbers in double precision) were computed by Python's struct and math.fsum.</summary>
    [Theory]
    [InlineData("bert", 42, 34954, 243.20139927899095)]
    [InlineData("gpt2", 40, 87824, 242.89498391045095)]
    [InlineData("gpt2-reward", 29, 54400, 274.9320082836798)]
    [InlineData("gpt2-sharded", 28, 38577, 178.27156786659998)]
    [InlineData("llama-tied", 20, 34920, 232.90222601515234)]
    [InlineData("llama-untied", 21, 69648, 263.9965257429767)]
    [InlineData("mistral", 21, 38944, 202.57957603962655)]
    [InlineData("qwen2", 26, 42320, 119.60597217474606)]
    [InlineData("qwen3", 24, 44984, 230.6247031686296)]
    [InlineData("roberta", 42, 29707, 180.80172399720823)]
    public void What_transformers_wrote_arrives(string model, int tensors, long numbers, double sum)
    {
        string folder = Golden.PathOf(Path.Combine("models", model));
        var expected = Directory.GetFiles(folder, "model*.safetensors").SelectMany(Golden.Tensors).ToDictionary();
        using var weights = PretrainedWeights.Open(folder);

        Assert.Equal(expected.Keys.Order(), weights.Tensors.Keys.Order());
        Assert.Equal(tensors, weights.Tensors.Count);
        Assert.Equal(numbers, weights.Tensors.Values.Sum(t => t.Shape.Aggregate(1L, (a, b) => a * b)));
        double total = 0;
        foreach (var (name, tensor) in weights.Tensors)
        {
            Assert.Equal("F32", tensor.Type);
            var target = empty(tensor.Shape);
            weights.Read(name, target);
            Close.Assert(expected[name], target, what: name);
            total += target.sum(float64).item<double>();
        }
        Close.Assert(sum, total, relative: 1e-12);
    }

    /// <summary>Every bit pattern of 16 bits, so infinities, NaN and numbers below the normal range are among them.</summary>
    [Theory]
    [InlineData(ScalarType.Float16)]
    [InlineData(ScalarType.BFloat16)]
    public void Half_precision_is_converted_as_torch_converts_it(ScalarType type)
    {
        var every = zeros(65536, type);
        arange(0, 65536, int32).to(int16).bytes.CopyTo(every.bytes);
        File.WriteAllBytes(Single, RawSafetensors.File(("w", every)));
        using var weights = PretrainedWeights.Open(_folder);

        Tensor wide = zeros(65536), same = zeros(65536, type);
        weights.Read("w", wide);
        weights.Read("w", same);

        Close.AssertSameBits(every.to(float32), wide);
        Close.AssertSameBits(every, same);
        Close.Assert(every, wide);
    }

    [Theory]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.BFloat16)]
    public void A_target_may_be_any_view(ScalarType type)
    {
        var source = randn(1700, 1500).to(type); // several windows
        File.WriteAllBytes(Single, RawSafetensors.File(("w", source)));
        using var weights = PretrainedWeights.Open(_folder);
        Tensor transposed = zeros(1500, 1700), fused = zeros(1900, 1500), halves = zeros(1700, 1500, float16);

        weights.Read("w", transposed.t());
        weights.Read("w", fused.narrow(0, 100, 1700));
        weights.Read("w", halves);

        Close.AssertSameBits(source.to(float32).t(), transposed);
        Close.AssertSameBits(source.to(float32), fused[100..1800]);
        Close.AssertSameBits(zeros(100, 1500), fused[..100]);
        Close.AssertSameBits(zeros(100, 1500), fused[1800..]);
        Close.AssertSameBits(source.to(float16), halves);
    }

    /// <summary>More numbers in one row than a window holds, and rows that do not divide it.</summary>
    [Theory]
    [InlineData("3000001")]
    [InlineData("1 1500000")]
    [InlineData("2 1 1300007")]
    [InlineData("3 5 7 20011")]
    [InlineData("")]
    public void Tensors_of_any_shape_arrive(string sizes)
    {
        long[] shape = [.. sizes.Split(' ', StringSplitOptions.RemoveEmptyEntries).Select(long.Parse)];
        var source = randn(shape);
        File.WriteAllBytes(Single, RawSafetensors.File(("before", randn(3)), ("w", source), ("after", randn(3))));
        using var weights = PretrainedWeights.Open(_folder);

        var target = zeros(shape);
        weights.Read("w", target);

        Close.AssertSameBits(source, target);
    }

    [Fact]
    public void Tensors_without_numbers_and_of_types_that_nobody_reads_do_not_disturb()
    {
        File.WriteAllBytes(Single, RawSafetensors.File(
            """
            {"__metadata__":{"format":"pt"},
             "mask":{"dtype":"BOOL","shape":[2,2],"data_offsets":[0,4]},
             "position":{"dtype":"I64","shape":[1],"data_offsets":[12,20]},
             "none":{"dtype":"F32","shape":[3,0],"data_offsets":[12,12]},
             "w":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},
             "packed":{"dtype":"F4","shape":[3,2],"data_offsets":[20,23]}}
            """,
            [1, 0, 1, 1, 0, 0, 128, 63, 0, 0, 0, 64, 7, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3]));
        using var weights = PretrainedWeights.Open(_folder);
        Tensor w = zeros(2), none = zeros(3, 0);

        weights.ReadAll([("w", w), ("none", none)], "", name => name is "mask" or "position" or "packed");

        Close.Assert(tensor(new float[] { 1, 2 }), w);
        Assert.Equal("BOOL", weights.Tensors["mask"].Type);
        var error = Assert.Throws<FormatException>(() => weights.Read("mask", zeros(2, 2)));
        Assert.Contains("tensor 'mask' has type BOOL, and only F32 or F16 or BF16 is read", error.Message);
    }

    [Theory]
    [InlineData("transformer.wte", "transformer.wte")]
    [InlineData("wte", "transformer.wte")]
    [InlineData("score", "score")]
    public void Names_in_the_file_may_lack_the_prefix(string inFile, string asked)
    {
        File.WriteAllBytes(Single, RawSafetensors.File((inFile, ones(2))));
        using var weights = PretrainedWeights.Open(_folder);
        var target = zeros(2);

        weights.ReadAll([(asked, target)], "transformer.", _ => false);

        Close.Assert(ones(2), target);
    }

    [Fact]
    public void A_tensor_with_and_without_prefix_is_one_too_many()
    {
        File.WriteAllBytes(Single, RawSafetensors.File(("wte", zeros(2)), ("transformer.wte", ones(2))));
        using var weights = PretrainedWeights.Open(_folder);

        var error = Assert.Throws<FormatException>(() => weights.ReadAll([("transformer.wte", zeros(2))], "transformer.", _ => false));

        Assert.Contains("'wte' is not part of the model", error.Message);
    }

    [Fact]
    public void Everything_that_does_not_fit_is_said_at_once_and_nothing_is_copied()
    {
        File.WriteAllBytes(Single, RawSafetensors.File(
            ("good", ones(2)), ("wide", ones(2, 3)), ("bytes", ones(2, uint8)), ("unknown", ones(1)), ("h.0.attn.bias", ones(1, uint8))));
        using var weights = PretrainedWeights.Open(_folder);
        var good = zeros(2);

        var error = Assert.Throws<FormatException>(() => weights.ReadAll(
            [("good", good), ("wide", zeros(3, 2)), ("bytes", zeros(2)), ("absent", zeros(1))], "", name => name.EndsWith("attn.bias")));

        Assert.Equal(
            $"The weights in '{_folder}' do not fit the model: 'wide' is [2, 3], but the model has [3, 2]; " +
            "tensor 'bytes' has type U8, and only F32 or F16 or BF16 is read; 'absent' is missing; 'unknown' is not part of the model. " +
            "Check that config.json belongs to the weights, and download or save both again.",
            error.Message);
        Close.Assert(zeros(2), good);
    }

    [Fact]
    public void Of_thousands_of_differences_twenty_of_a_kind_are_named()
    {
        File.WriteAllBytes(Single, RawSafetensors.File([.. Enumerable.Range(0, 1000).Select(i => ($"theirs.{i}", ones(1)))]));
        using var weights = PretrainedWeights.Open(_folder);

        var error = Assert.Throws<FormatException>(() => weights.ReadAll(
            Enumerable.Range(0, 3000).Select(i => ($"ours.{i}", ones(1))), "", _ => false));

        Assert.Contains("'ours.19' is missing; 2980 more are missing; ", error.Message);
        Assert.Contains("'theirs.19' is not part of the model; 980 more are not part of the model. ", error.Message);
        Assert.InRange(error.Message.Length, 1000, 3000);
    }

    [Fact]
    public void Parameters_and_their_views_are_filled_and_still_learn()
    {
        File.WriteAllBytes(Single, RawSafetensors.File(("w", arange(6, float32).reshape(3, 2))));
        using var weights = PretrainedWeights.Open(_folder);
        var linear = Linear(3, 2, hasBias: false);

        weights.Read("w", linear.weight!.t());

        Close.Assert(tensor(new float[,] { { 0, 2, 4 }, { 1, 3, 5 } }), linear.weight!);
        Assert.True(linear.weight!.requires_grad);
        linear.forward(ones(1, 3)).sum().backward();
        Close.Assert(ones(2, 3), linear.weight!.grad!);
    }

    [Fact]
    public void Reading_leaves_no_tensor_behind()
    {
        File.WriteAllBytes(Single, RawSafetensors.File(("w", randn(2500, 1000))));
        using var weights = PretrainedWeights.Open(_folder);
        var target = zeros(2500, 1000, bfloat16);

        LiveTensors.AssertNoneLeftBy(() => weights.Read("w", target));
    }

    /// <summary>The caches of downloaded models consist of links: snapshots/…/model.safetensors → blobs/….</summary>
    [Fact]
    public void Links_are_followed_out_of_the_folder()
    {
        string blobs = Directory.CreateDirectory(Path.Combine(_folder, "blobs")).FullName;
        string snapshot = Directory.CreateDirectory(Path.Combine(_folder, "snapshots", "main")).FullName;
        foreach (string file in Directory.GetFiles(Golden.PathOf("models/gpt2-sharded"), "model*"))
        {
            string blob = Path.Combine(blobs, Convert.ToHexString(Guid.NewGuid().ToByteArray()));
            File.Copy(file, blob);
            File.CreateSymbolicLink(Path.Combine(snapshot, Path.GetFileName(file)), Path.GetRelativePath(snapshot, blob));
        }
        using var weights = PretrainedWeights.Open(snapshot);
        var target = zeros(301, 33);

        weights.Read("transformer.wte.weight", target);

        Close.Assert(Golden.Tensors("models/gpt2-sharded/model-00001-of-00004.safetensors")["transformer.wte.weight"], target);
    }
}
