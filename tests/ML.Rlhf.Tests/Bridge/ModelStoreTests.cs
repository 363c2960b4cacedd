using System.IO.Compression;
using System.Text;
using Microsoft.ML;
using Microsoft.ML.Data;

namespace ML.Rlhf.Tests.Bridge;

public sealed class ModelStoreTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;
    private readonly MLContext _ml = new(seed: 1);

    private string Zip => Path.Combine(_folder, "model.zip");

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void A_component_comes_back_from_a_model_file()
    {
        _ml.Model.Save(new Shout("!"), inputSchema: null, Zip);

        var loaded = Assert.IsType<Shout>(new MLContext().Model.Load(Zip, out _));

        Assert.Equal("!", loaded.Suffix);
        Assert.Equal(["HELLO!"], Shouted(loaded));
    }

    [Fact]
    public void A_component_works_between_stock_transforms_before_and_after_saving()
    {
        var data = _ml.Data.LoadFromEnumerable(new[] { new TextRow { Text = "Hello, World." } });
        var chain = _ml.Transforms.Text.NormalizeText("Text", keepPunctuations: false).Fit(data)
            .Append(new Shout("!"))
            .Append(_ml.Transforms.CopyColumns("Copy", "Shouted").Fit(new Shout("!").Transform(data)));
        _ml.Model.Save(chain, data.Schema, Zip);

        var loaded = new MLContext().Model.Load(Zip, out var schema);

        Assert.Equal("Text", Assert.Single(schema).Name);
        Assert.Equal(["HELLO WORLD!"], chain.Transform(data).GetColumn<string>("Copy"));
        Assert.Equal(["HELLO WORLD!"], loaded.Transform(data).GetColumn<string>("Copy"));
    }

    [Fact]
    public void A_component_can_hold_another_model_and_be_saved_again()
    {
        var again = Path.Combine(_folder, "again.zip");
        _ml.Model.Save(new Shout("!", nested: new Shout("?")), inputSchema: null, Zip);

        _ml.Model.Save(new MLContext().Model.Load(Zip, out _), inputSchema: null, again);
        var loaded = Assert.IsType<Shout>(new MLContext().Model.Load(again, out _));

        Assert.Equal("!", loaded.Suffix);
        Assert.Equal("?", Assert.IsType<Shout>(loaded.Nested).Suffix);
    }

    [Fact]
    public void An_older_version_is_read_and_known_to_the_component()
    {
        SaveAsVersion(1);

        Assert.Equal(1, Assert.IsType<Shout>(new MLContext().Model.Load(Zip, out _)).LoadedVersion);
    }

    [Fact]
    public void A_newer_version_says_what_to_update()
    {
        SaveAsVersion(3);

        Assert.Equal(
            "Model component 'Shout' version 3 is newer than this library (2). Update the ML.Rlhf package to read it.", LoadError());
    }

    [Fact]
    public void A_type_that_no_assembly_declares_is_never_created()
    {
        _ml.Model.Save(new Undeclared(), inputSchema: null, Zip);

        Assert.Equal("Assembly 'ML.Rlhf.Tests' declares no model component 'Undeclared' that is an ITransformer. " +
            "Update the ML.Rlhf package, or check where this file comes from.", LoadError());
        Assert.Equal(0, Undeclared.Loaded);
    }

    [Fact]
    public void An_unknown_component_is_an_error()
    {
        _ml.Model.Save(new Shout("!"), inputSchema: null, Zip);
        ReplaceInMainStream("Shout", "Shoot");

        Assert.StartsWith("Assembly 'ML.Rlhf.Tests' declares no model component 'Shoot' that is an ITransformer.", LoadError());
    }

    [Theory]
    [InlineData("../../../evil")]
    [InlineData("A, Culture=xx")]
    [InlineData("/tmp/evil.dll")]
    public void An_assembly_is_known_by_its_simple_name_only(string name)
    {
        _ml.Model.Save(new Shout("!"), inputSchema: null, Zip);
        ReplaceInMainStream("ML.Rlhf.Tests", name);

        Assert.Equal($"'{name}' is not an assembly's simple name, so model component 'Shout' cannot be loaded.", LoadError());
    }

    [Fact]
    public void An_assembly_that_the_application_lacks_is_named()
    {
        _ml.Model.Save(new Shout("!"), inputSchema: null, Zip);
        ReplaceInMainStream("ML.Rlhf.Tests", "ML.Rlhf.Nests");

        var error = LoadError();
        Assert.StartsWith("Model component 'Shout' needs assembly 'ML.Rlhf.Nests'.", error);
        Assert.EndsWith("Reference the package that contains it.", error);
    }

    [Fact]
    public void A_missing_stream_is_named()
    {
        _ml.Model.Save(new Shout("!"), inputSchema: null, Zip);
        using (var zip = ZipFile.Open(Zip, ZipArchiveMode.Update))
            Entry(zip, "suffix.txt").Delete();

        Assert.Equal("Model component 'Shout' has no stream 'suffix.txt' in this file. " +
            "Save the model again, or get a whole copy.", LoadError());
    }

    [Fact]
    public void A_missing_nested_model_is_named()
    {
        _ml.Model.Save(new Shout("!", nested: new Shout("?")), inputSchema: null, Zip);
        using (var zip = ZipFile.Open(Zip, ZipArchiveMode.Update))
            Entry(zip, "Nested/Model.key").Delete();

        Assert.StartsWith("Model component 'Shout' has no model 'Nested' in this file.", LoadError());
    }

    [Fact]
    public void A_stream_that_was_cut_short_is_an_error()
    {
        _ml.Model.Save(new Shout("!!!"), inputSchema: null, Zip);
        using (var zip = ZipFile.Open(Zip, ZipArchiveMode.Update))
        {
            using var stream = Entry(zip, "suffix.txt").Open();
            stream.SetLength(1);
        }

        Assert.Equal("Model component 'Shout' ends early in this file. Save the model again, or get a whole copy.", LoadError());
    }

    private void SaveAsVersion(int version)
    {
        Shout.PretendVersion.Value = version;
        _ml.Model.Save(new Shout("!"), inputSchema: null, Zip);
        Shout.PretendVersion.Value = null;
    }

    private string LoadError()
    {
        var thrown = Assert.ThrowsAny<Exception>(() => new MLContext().Model.Load(Zip, out _));
        return Assert.IsType<FormatException>(thrown.GetBaseException()).Message; // ML.NET wraps it: it loads by reflection
    }

    private IEnumerable<string> Shouted(ITransformer transformer) =>
        transformer.Transform(_ml.Data.LoadFromEnumerable(new[] { new TextRow { Text = "hello" } })).GetColumn<string>("Shouted");

    /// <summary>Of the same length, for ML.NET's header holds offsets.</summary>
    private void ReplaceInMainStream(string old, string replacement)
    {
        Assert.Equal(old.Length, replacement.Length);
        using var zip = ZipFile.Open(Zip, ZipArchiveMode.Update);
        using var stream = Entry(zip, "TransformerChain/Model.key").Open();
        var content = new byte[stream.Length];
        stream.ReadExactly(content);
        stream.Position = content.AsSpan().IndexOf(Encoding.UTF8.GetBytes(old));
        stream.Write(Encoding.UTF8.GetBytes(replacement));
    }

    private static ZipArchiveEntry Entry(ZipArchive zip, string end) =>
        zip.Entries.Single(entry => entry.FullName.Replace('\\', '/').EndsWith(end, StringComparison.Ordinal));
}
