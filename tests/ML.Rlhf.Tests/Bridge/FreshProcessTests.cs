using Microsoft.ML;

namespace ML.Rlhf.Tests.Bridge;

[Trait("Tier", "Slow")]
public sealed class FreshProcessTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void A_program_that_mentions_nothing_of_the_pack_loads_a_chain_with_a_component()
    {
        var ml = new MLContext(seed: 1);
        var data = ml.Data.LoadFromEnumerable(new[] { new TextRow { Text = "Hello, World." } });
        var chain = ml.Transforms.Text.NormalizeText("Text", keepPunctuations: false).Fit(data)
            .Append(new Shout("!", nested: new Shout("?")))
            .Append(ml.Transforms.CopyColumns("Copy", "Shouted").Fit(new Shout("!").Transform(data)));
        ml.Model.Save(chain, data.Schema, Path.Combine(_folder, "model.zip"));

        var output = FreshProcess.Run(_folder, """
            using Microsoft.ML;

            var ml = new MLContext();
            var model = ml.Model.Load("model.zip", out var schema);
            var data = ml.Data.LoadFromEnumerable(new[] { new Row { Text = "Good-bye, World." } });
            foreach (var row in ml.Data.CreateEnumerable<Result>(model.Transform(data), reuseRowObject: false))
                System.Console.WriteLine(row.Copy);
            System.Console.WriteLine(string.Join(",", schema));

            class Row { public string Text { get; set; } }
            class Result { public string Copy { get; set; } }
            """);

        Assert.Equal("GOODBYE WORLD!\nText: String", output);
    }
}
