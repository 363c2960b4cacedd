using System.Buffers.Binary;
using ML.Rlhf.Torch.Checkpoints;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Checkpoints;

/// <summary>Files that are broken by accident or on purpose. The message names the file, what is wrong and what to do.</summary>
public sealed class HostileWeightsTests : IDisposable
{
    private const string A = """ "a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]} """;

    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;

    private string Single => Path.Combine(_folder, "model.safetensors");

    private string Index => Path.Combine(_folder, "model.safetensors.index.json");

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void A_file_that_was_cut_anywhere()
    {
        byte[] whole = RawSafetensors.File(("a", ones(2)), ("b", ones(3, 2)));
        int data = whole.Length - 8 * sizeof(float);
        for (int length = 1; length < whole.Length; length++)
        {
            File.WriteAllBytes(Single, whole[..length]);
            AssertDamaged(length < data ? "it is shorter than its header"
                : length < data + 8 ? "it ends in the middle of tensor 'a': its tensors need 32 bytes, and it has "
                : "it ends in the middle of tensor 'b': its tensors need 32 bytes, and it has ");
        }
        File.WriteAllBytes(Single, [.. whole, 0]);
        AssertDamaged("it has 1 bytes after its last tensor");
    }

    [Theory]
    [InlineData("{ this is no json }", "its header is not valid: ")]
    [InlineData("[]", "its header is not valid: ")]
    [InlineData("", "its header is not valid: ")]
    [InlineData("{" + A + "," + A + "}", "its header is not valid: Duplicate property 'a'")]
    [InlineData("{" + A + """,  "\u0061":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}""", "Duplicate property 'a'")]
    [InlineData("""{"\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}""", "its header is not valid: ")]
    [InlineData("""{"a":{"dtype":"\ud800","shape":[2],"data_offsets":[0,8]}}""", "its header is not valid: ")]
    [InlineData("""{"a":[1,2]}""", "tensor 'a' is no object with dtype, shape and data_offsets")]
    [InlineData("""{"a":{"shape":[2],"data_offsets":[0,8]}}""", "tensor 'a' has no dtype")]
    [InlineData("""{"a":{"dtype":32,"shape":[2],"data_offsets":[0,8]}}""", "tensor 'a' has no dtype")]
    [InlineData("""{"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}""", "tensor 'a' has type 'F33', which is none of BF16, BOOL, ")]
    [InlineData("""{"a":{"dtype":"F32","data_offsets":[0,8]}}""", "tensor 'a' has no shape")]
    [InlineData("""{"a":{"dtype":"F32","shape":{"0":2},"data_offsets":[0,8]}}""", "tensor 'a' has no shape")]
    [InlineData("""{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}""", "tensor 'a' has '-2' in shape, where only whole numbers ")]
    [InlineData("""{"a":{"dtype":"F32","shape":["2"],"data_offsets":[0,8]}}""", "tensor 'a' has '\"2\"' in shape")]
    [InlineData("""{"a":{"dtype":"F32","shape":[2.5],"data_offsets":[0,8]}}""", "tensor 'a' has '2.5' in shape")]
    [InlineData("""{"a":{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,8]}}""", "has '99999999999999999999' in shape")]
    [InlineData("""{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}""",
        "tensor 'a' of shape [4294967296, 4294967296] is longer than any file")]
    [InlineData("""{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}""", "is longer than any file")]
    [InlineData("""{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,8]}}""",
        "tensor 'a' of shape [2] and type F16 does not fill its bytes [0, 8]")]
    [InlineData("""{"a":{"dtype":"F32","shape":[2]}}""", "tensor 'a' has no data_offsets")]
    [InlineData("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[8]}}""", "tensor 'a' has data_offsets [8], which are no begin and end")]
    [InlineData("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}""", "'a' has data_offsets [8, 0], which are no begin and end")]
    [InlineData("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}}""", "tensor 'a' has '-8' in data_offsets")]
    [InlineData("""{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}""",
        "it ends in the middle of tensor 'a': its tensors need 16 bytes, and it has 8")]
    [InlineData("""{"a":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}}""", "need 4000000000 bytes, and it has 8")]
    [InlineData("""{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}""", "starts at byte 4, but the one before it ended at 0")]
    [InlineData("""{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}""", "it has 4 bytes after its last tensor")]
    [InlineData("{" + A + ""","b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}""", "tensor 'b' starts at byte 4, but the one before")]
    [InlineData("{" + A + ""","b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}""", "starts at byte 0, but the one before ")]
    [InlineData("{" + A + ""","b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}}""", "tensor 'b' starts at byte 12")]
    [InlineData("{" + A + ""","b":{"dtype":"F32","shape":[0],"data_offsets":[4,4]}}""", "tensor 'b' starts at byte 4")]
    [InlineData("{}", "it has 8 bytes after its last tensor")]
    public void A_header_that_lies(string header, string says)
    {
        File.WriteAllBytes(Single, RawSafetensors.File(header, new byte[8]));

        AssertDamaged(says);
    }

    [Fact]
    public void A_header_that_is_a_bomb()
    {
        Write(new string('[', 100_000), "its header is not valid: ");
        Write("""{"a":{"dtype":"F32","shape":[""" + string.Join(",", Enumerable.Repeat(0, 100_000)) + """],"data_offsets":[0,0]}}""",
            "tensor 'a' has 100000 numbers in shape, and at most 64 make sense");
        string message = Write($$"""{"{{new string('x', 1_000_000)}}\n":7}""", "tensor 'xxxxx");
        Assert.InRange(message.Length, 100, 1000);

        string Write(string header, string says)
        {
            File.WriteAllBytes(Single, RawSafetensors.File(header, []));
            return AssertDamaged(says);
        }
    }

    [Theory]
    [InlineData(90_000_000, "it is shorter than its header, which claims 90000000 bytes of 20")]
    [InlineData(100_000_001, "its header claims 100000001 bytes, and the format allows 100000000")]
    [InlineData(-1, "its header claims 18446744073709551615 bytes, and the format allows 100000000")]
    public void A_header_that_claims_to_be_long_takes_no_memory(long claimed, string says)
    {
        var file = new byte[20];
        BinaryPrimitives.WriteInt64LittleEndian(file, claimed);
        File.WriteAllBytes(Single, file);
        long before = GC.GetAllocatedBytesForCurrentThread();

        AssertDamaged(says);

        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 1_000_000);
    }

    [Fact]
    public void A_header_that_is_no_text()
    {
        byte[] file = RawSafetensors.File("{" + A + "}", new byte[8]);
        file[Array.IndexOf(file, (byte)'a')] = 0xff;
        File.WriteAllBytes(Single, file);

        AssertDamaged("its header is not valid: ");
    }

    [Fact]
    public void What_is_no_file_of_weights()
    {
        Assert.Equal($"There is no folder '{_folder}/nowhere'. Check the path.",
            Assert.Throws<DirectoryNotFoundException>(() => PretrainedWeights.Open(_folder + "/nowhere")).Message);
        Assert.Equal(
            $"'{_folder}' has neither 'model.safetensors' nor 'model.safetensors.index.json'. " +
            "Download or save the model again, as a whole.",
            Assert.Throws<FileNotFoundException>(() => PretrainedWeights.Open(_folder)).Message);

        File.WriteAllText(Path.Combine(_folder, "pytorch_model.bin"), "pickle");
        Assert.EndsWith(
            "pytorch_model.bin may run code when it is read: convert it with transformers' save_pretrained, which writes safetensors.",
            Assert.Throws<FileNotFoundException>(() => PretrainedWeights.Open(_folder)).Message);

        File.WriteAllText(Single, "version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 548105171\n");
        AssertDamaged("it is a pointer of Git LFS and not the file itself (run 'git lfs pull' in its folder)");

        File.WriteAllBytes(Single, []);
        Assert.Equal($"'{Single}' is empty. Download or save the model again, as a whole.",
            Assert.Throws<FormatException>(() => PretrainedWeights.Open(_folder)).Message);
    }

    [Fact]
    public void Links_that_lead_nowhere()
    {
        File.CreateSymbolicLink(Single, Path.Combine(_folder, "blob"));
        Assert.Equal(
            $"There is no file '{Single}', but only a link that leads nowhere. " +
            "Check the path, or download or save the model again, as a whole.",
            Assert.Throws<FileNotFoundException>(() => PretrainedWeights.Open(_folder)).Message);

        File.CreateSymbolicLink(Path.Combine(_folder, "blob"), Single);
        Assert.ThrowsAny<IOException>(() => PretrainedWeights.Open(_folder));
    }

    /// <summary>Opening a pipe waits for somebody who writes, reading this device never ends.</summary>
    [Fact]
    public void Pipes_and_devices_are_not_waited_for()
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "Files are files on Windows.");
        Shell($"mkfifo '{Single}'");
        Assert.EndsWith("is empty. Download or save the model again, as a whole.",
            Assert.Throws<FormatException>(() => PretrainedWeights.Open(_folder)).Message);

        File.Delete(Single);
        File.CreateSymbolicLink(Single, "/dev/zero");
        Assert.Throws<FormatException>(() => PretrainedWeights.Open(_folder));
    }

    /// <summary>On Windows, nobody can write to a file that is open for reading.</summary>
    [Fact]
    public void A_file_that_changes_after_it_was_opened()
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "Windows does not let anybody write to an open file.");
        byte[] content = RawSafetensors.File(("a", ones(2_000_000)));
        File.WriteAllBytes(Single, content);
        string copy = Path.Combine(_folder, "copy");
        using var weights = PretrainedWeights.Open(_folder);
        var target = zeros(2_000_000);

        // Other processes are not kept out by .NET's locks; the shell is one.
        Shell($"cp '{Single}' '{copy}' && head -c 1000 '{copy}' > '{Single}'");
        AssertChanged();
        Shell($"cat '{copy}' > '{Single}' && touch -t 200101010000 '{Single}'"); // as long as before
        AssertChanged();

        void AssertChanged() => Assert.Equal(
            $"'{Single}' was changed while it was read. Wait until it is written, and load it again.",
            Assert.Throws<FormatException>(() => weights.Read("a", target)).Message);
    }

    [Theory]
    [InlineData("\"../x.safetensors\"")]
    [InlineData("\"/tmp/x.safetensors\"")]
    [InlineData("\"shards/x.safetensors\"")]
    [InlineData("\"..\\\\x.safetensors\"")]
    [InlineData("\"C:x.safetensors\"")]
    [InlineData("\"x.safetensors\\u0000\"")]
    [InlineData("\"x\\u0000.safetensors\"")]
    [InlineData("\"x.safetensors/\"")]
    [InlineData("\".safetensors\"")]
    [InlineData("\"..\"")]
    [InlineData("\"\"")]
    [InlineData("\"config.json\"")]
    [InlineData("\"model.safetensors.index.json\"")]
    [InlineData("null")]
    [InlineData("7")]
    [InlineData("[\"x.safetensors\"]")]
    public void An_index_whose_shards_have_names_that_try_something(string name)
    {
        File.WriteAllText(Index, "{\"weight_map\":{\"a\":" + name + "}}");

        AssertIndex("tensor 'a' is said to be in '", "which is no name of a .safetensors file beside the index");
    }

    [Theory]
    [InlineData("{", "is not valid JSON: ")]
    [InlineData("[]", "it has no object 'weight_map'")]
    [InlineData("{}", "it has no object 'weight_map'")]
    [InlineData("""{"weight_map":["a","x.safetensors"]}""", "it has no object 'weight_map'")]
    [InlineData("""{"weight_map":{"a":"x.safetensors","a":"y.safetensors"}}""", "is not valid JSON: Duplicate property 'a'")]
    [InlineData("""{"weight_map":{"a":"\ud800.safetensors"}}""", "Cannot ")]
    [InlineData("""{"weight_map":{"\ud800":"x.safetensors"}}""", "Cannot ")]
    [InlineData("""{"weight_map":{}, "weight_map":{}}""", "is not valid JSON: Duplicate property 'weight_map'")]
    public void An_index_that_is_none(string index, string says)
    {
        File.WriteAllText(Index, index);

        AssertIndex(says);
    }

    [Fact]
    public void An_index_that_is_a_bomb()
    {
        File.WriteAllText(Index, string.Concat(Enumerable.Repeat("{\"weight_map\":", 100)));
        AssertIndex("is not valid JSON: ", "depth");

        using (var file = File.Create(Index))
            file.SetLength(20_000_000);
        long before = GC.GetAllocatedBytesForCurrentThread();
        AssertIndex("has 20000000 bytes, and at most 16777216 are read");
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 1_000_000);

        File.WriteAllBytes(Index, [(byte)'"', 0xff, (byte)'"']);
        AssertIndex("it is no UTF-8 text");
    }

    [Fact]
    public void Shards_that_are_missing_are_named_all_at_once()
    {
        WriteShard("y.safetensors", "y");
        WriteIndex(("a", "x.safetensors"), ("y", "y.safetensors"), ("b", "z.safetensors"), ("c", "z.safetensors"));

        AssertIndex("'x.safetensors', 'z.safetensors' of its 3 shards are not in the folder");
    }

    [Fact]
    public void Shards_that_do_not_have_what_the_index_says()
    {
        WriteShard("x.safetensors", "a");
        WriteShard("y.safetensors", "b");
        WriteIndex(("b", "x.safetensors"), ("a", "x.safetensors"), ("c", "y.safetensors"));

        AssertIndex("'b', 'c' are not in the shards that it names for them");
    }

    [Fact]
    public void Shards_that_have_a_tensor_twice()
    {
        WriteShard("x.safetensors", "a", "b");
        WriteShard("y.safetensors", "b");
        WriteIndex(("a", "x.safetensors"), ("b", "y.safetensors"));

        Assert.Equal(
            $"Tensor 'b' is in two files of '{_folder}': 'x.safetensors' and 'y.safetensors'. They belong to two models; download or " +
            "save the model again, as a whole.",
            Assert.Throws<FormatException>(() => PretrainedWeights.Open(_folder)).Message);
    }

    [Fact]
    public void Tensors_of_a_shard_that_the_index_does_not_mention_are_there_as_in_transformers()
    {
        WriteShard("x.safetensors", "a", "b");
        WriteIndex(("a", "x.safetensors"));

        using var weights = PretrainedWeights.Open(_folder);

        Assert.Equal(["a", "b"], weights.Tensors.Keys);
    }

    [Fact]
    public void An_index_that_is_its_own_shard()
    {
        WriteIndex(("a", "x.safetensors"));
        File.CreateSymbolicLink(Path.Combine(_folder, "x.safetensors"), Index);

        Assert.Contains($"'{Path.Combine(_folder, "x.safetensors")}' cannot be read: its header claims ",
            Assert.Throws<FormatException>(() => PretrainedWeights.Open(_folder)).Message);
    }

    [Fact]
    public void What_cannot_be_opened_leaves_no_file_open()
    {
        WriteShard("x.safetensors", "a");
        File.WriteAllBytes(Path.Combine(_folder, "y.safetensors"), new byte[20]);
        WriteIndex(("a", "x.safetensors"), ("b", "y.safetensors"));

        Assert.Throws<FormatException>(() => PretrainedWeights.Open(_folder));

        using var alone = new FileStream(Path.Combine(_folder, "x.safetensors"), FileMode.Open, FileAccess.ReadWrite, FileShare.None);
    }

    private void WriteShard(string file, params string[] tensors) =>
        File.WriteAllBytes(Path.Combine(_folder, file), RawSafetensors.File([.. tensors.Select(t => (t, ones(2)))]));

    private void WriteIndex(params (string Tensor, string File)[] map) => File.WriteAllText(
        Index, "{\"weight_map\":{" + string.Join(",", map.Select(m => $"\"{m.Tensor}\":\"{m.File}\"")) + "}}");

    private string AssertDamaged(string says)
    {
        string message = Assert.Throws<FormatException>(() => PretrainedWeights.Open(_folder)).Message;
        Assert.StartsWith($"'{Single}' cannot be read: ", message);
        Assert.Contains(says, message);
        Assert.EndsWith(". The file is damaged or belongs to another model; save or copy it again.", message);
        return message;
    }

    private void AssertIndex(params string[] says)
    {
        string message = Assert.Throws<FormatException>(() => PretrainedWeights.Open(_folder)).Message;
        Assert.StartsWith($"'{Index}' ", message);
        Assert.All(says, part => Assert.Contains(part, message));
        Assert.Matches("(again|as a whole)\\.$", message);
    }

    private static void Shell(string command)
    {
        using var process = System.Diagnostics.Process.Start("sh", ["-c", command]);
        process.WaitForExit();
        Assert.Equal(0, process.ExitCode);
    }
}
