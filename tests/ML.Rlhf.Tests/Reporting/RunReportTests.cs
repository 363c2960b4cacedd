using System.Text.RegularExpressions;
using Microsoft.ML;

namespace ML.Rlhf.Tests.Reporting;

public sealed partial class RunReportTests : IDisposable
{
    private readonly MLContext _ml = new(seed: 1);
    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void It_is_one_file_that_asks_for_no_other()
    {
        var history = new TrainingHistory();
        history.Report(Records.Of(1));
        string html = Save(new RunReport("A & B").AddRun(history).AddData("Demonstrations", _ml.Data.LoadFromEnumerable(Tiny.Demonstrations)));

        Assert.StartsWith("<!DOCTYPE html>", html);
        Assert.Contains("<title>A &amp; B</title>", html);
        Assert.DoesNotMatch(Reference(), html);
    }

    [Fact]
    public void A_run_shows_its_numbers_its_alarms_and_the_options_that_it_was_run_with()
    {
        var history = new TrainingHistory();
        history.Report(Records.OfPolicy(1, alarms: new TrainingAlarm(AlarmKind.HighKl, "The KL is <high>.", AlarmPolicy.Stop)));

        string html = Save(new RunReport("R").AddRun(history, new PpoOptions { KlCoefficient = 0.123, Progress = history }));

        Assert.Contains("<dt>KL, nats</dt><dd>1.5</dd>", html);
        Assert.Contains("<b>Update 1, HighKl (Stop): </b>The KL is &lt;high&gt;.", html);
        Assert.Matches(@"<td[^>]*>KlCoefficient</td><td[^>]*>0\.123</td>", html);
    }

    [Fact]
    public void A_run_from_disk_knows_its_options_itself()
    {
        _ml.Rlhf().Trainers.Gpt(new GptOptions
        {
            Architecture = Tiny.Architecture, Tokenizer = Tiny.Letters, Steps = 3, WarmupSteps = 1, LearningRate = 0.00321,
            Checkpoints = new CheckpointOptions { Folder = Path.Combine(_folder, "run") },
        }).Fit(_ml.Data.LoadFromEnumerable(Tiny.Documents)).Dispose();

        string html = Save(new RunReport("R").AddRun(TrainingHistory.Load(Path.Combine(_folder, "run"))));

        Assert.Matches(@"<td[^>]*>LearningRate</td><td[^>]*>0\.00321</td>", html);
    }

    [Fact]
    public void Data_shows_its_columns_rows_and_beginning()
    {
        var rows = Enumerable.Range(0, 1234).Select(i => new Document { Text = $"row {i}" });

        string html = Save(new RunReport("R").AddData("Corpus", _ml.Data.LoadFromEnumerable(rows)));

        Assert.Contains("<dd>1,234</dd>", html);
        Assert.Contains("Text: String", html);
        Assert.Contains("row 2<", html);
        Assert.DoesNotContain("row 3<", html);
    }

    [Fact]
    public void Data_with_vectors_shows_their_values()
    {
        var row = new Ranking { Prompt = "p", Answers = ["first", "second"], Ranks = [1, 2.5f] };

        string html = Save(new RunReport("R").AddData("Rankings", _ml.Data.LoadFromEnumerable([row])));

        Assert.Contains(">first | second<", html);
        Assert.Contains(">1 | 2.5<", html);
    }

    [Fact]
    public void A_history_that_nobody_filled_is_an_error_that_says_how_to_fill_it()
    {
        var error = Assert.Throws<ArgumentException>(() => new RunReport("R").AddRun(new TrainingHistory()));

        Assert.Contains("Progress", error.Message);
    }

    private string Save(RunReport report)
    {
        string file = Path.Combine(_folder, "new folder", "report.html");
        report.Save(file);
        return File.ReadAllText(file);
    }

    /// <summary>What makes a browser ask for something: scripts, links, images, fonts, style sheets.</summary>
    [GeneratedRegex(@"<script|<link|<img|<iframe|\ssrc=|\shref=|url\(|@import|https?://", RegexOptions.IgnoreCase)]
    private static partial Regex Reference();
}
