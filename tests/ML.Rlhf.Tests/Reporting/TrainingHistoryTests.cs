using System.Xml.Linq;
using Microsoft.ML;
using ML.Rlhf.Torch.Training;

namespace ML.Rlhf.Tests.Reporting;

public sealed class TrainingHistoryTests : IDisposable
{
    private static readonly TrainingAlarm s_alarm = new(AlarmKind.HighKl, "The KL is high.", AlarmPolicy.Log);

    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void It_has_all_that_was_reported_by_name_and_step()
    {
        var history = new TrainingHistory();
        history.Report(Records.OfPolicy(1, score: 0.25));
        history.Report(Records.OfPolicy(2, score: 0.75, alarms: s_alarm));

        Assert.Equal("PPO", history.Stage);
        Assert.Equal(2, history.Step);
        Assert.Equal(TimeSpan.FromMinutes(2), history.Elapsed);
        Assert.Equal(Records.OfPolicy(1).ToMetrics().Keys.Order(), history.Metrics.Order());
        Assert.Equal([new MetricPoint(1, 0.25), new MetricPoint(2, 0.75)], history["objective/scores"]);
        Assert.Equal([new AlarmPoint(2, s_alarm)], history.Alarms);
        Assert.Empty(history["no such metric"]);
    }

    [Fact]
    public void Steps_that_are_taken_again_replace_those_that_are_there()
    {
        var history = new TrainingHistory();
        for (int step = 1; step <= 5; step++)
            history.Report(Records.Of(step, loss: 1, validation: step == 4 ? 9 : null));
        history.Report(Records.Of(3, loss: 2));

        Assert.Equal([(1, 1), (2, 1), (3, 2)], history["loss"].Select(p => (p.Step, (int)p.Value)));
        Assert.Empty(history["eval_loss"]);
        Assert.DoesNotContain("eval_loss", history.Metrics);
    }

    [Fact]
    public void Another_stage_begins_anew()
    {
        var history = new TrainingHistory();
        history.Report(Records.Of(7));
        history.Report(Records.OfPolicy(9));

        Assert.Equal("PPO", history.Stage);
        Assert.Equal(9, Assert.Single(history["loss"]).Step);
    }

    [Fact]
    public void It_is_read_from_the_folder_of_a_run_as_it_was_reported()
    {
        var live = new TrainingHistory();
        var ml = new MLContext(seed: 1);
        ml.Rlhf().Trainers.Gpt(new GptOptions
        {
            Architecture = Tiny.Architecture,
            Tokenizer = Tiny.Letters,
            Steps = 6,
            WarmupSteps = 1,
            Progress = live,
            Checkpoints = new CheckpointOptions { Folder = _folder },
        }).Fit(ml.Data.LoadFromEnumerable(Tiny.Documents)).Dispose();

        var read = TrainingHistory.Load(_folder);

        Assert.Equal("GPT", read.Stage);
        Assert.Equal(live.Metrics.Order(), read.Metrics.Order());
        Assert.All(live.Metrics, metric => Assert.Equal(live[metric], read[metric]));
        Assert.Equal(6, read.Step);
        Assert.InRange((read.Elapsed - live.Elapsed).TotalSeconds, -0.001, 0.001);
    }

    [Fact]
    public void Alarms_and_numbers_that_are_not_finite_survive_on_disk()
    {
        using (var file = new ProgressHistory(_folder, _folder, 0))
            file.Add(Records.OfPolicy(1, score: double.NaN, alarms: s_alarm));

        var entry = Assert.Single(ProgressHistory.Read(_folder));

        Assert.Equal([s_alarm], entry.Alarms);
        Assert.Equal(double.NaN, entry.Metrics["objective/scores"]);
    }

    [Fact]
    public void A_line_that_is_being_written_is_left_out_and_a_damaged_one_named()
    {
        string file = Path.Combine(_folder, "progress.jsonl");
        using (var history = new ProgressHistory(_folder, _folder, 0))
        {
            history.Add(Records.Of(1));
            history.Add(Records.Of(2));
        }
        string whole = File.ReadAllText(file);

        File.WriteAllText(file, whole[..^20]);
        Assert.Equal([1], ProgressHistory.Read(_folder).Select(entry => entry.Step));

        File.WriteAllText(file, whole[20..]);
        var error = Assert.Throws<FormatException>(() => ProgressHistory.Read(_folder).ToList());
        Assert.Contains("Line 1 of ", error.Message);
    }

    [Fact]
    public void A_folder_without_a_run_is_an_error_that_says_which_folder_to_name()
    {
        var error = Assert.Throws<FileNotFoundException>(() => TrainingHistory.Load(_folder));

        Assert.Contains("CheckpointOptions.Folder", error.Message);
    }

    [Fact]
    public void It_draws_a_chart_of_each_number_that_matters_and_of_no_other()
    {
        var history = new TrainingHistory();
        for (int update = 1; update <= 10; update++)
            history.Report(Records.OfPolicy(update, score: update == 4 ? double.NaN : update));

        var charts = XElement.Parse(history.ToHtml()).Descendants("svg").ToArray();

        Assert.Equal(
            ["Loss", "Score", "KL to the reference, nats", "Entropy per token, nats", "Tokens per answer", "Part of the answers that end",
                "Part of the tokens that were clipped", "Gradient norm", "Learning rate"],
            charts.Select(chart => chart.Attribute("aria-label")!.Value));
        string score = charts[1].Elements("path").First().Attribute("d")!.Value;
        Assert.Equal(2, score.Count(c => c == 'M')); // the line is broken where the score was not a number
        Assert.Equal(7, score.Count(c => c == 'L'));
    }

    [Fact]
    public void A_run_of_a_hundred_thousand_steps_makes_a_small_picture_that_keeps_its_spikes()
    {
        var history = new TrainingHistory();
        for (int step = 1; step <= 100_000; step++)
            history.Report(Records.Of(step, 100_000, loss: step == 54_321 ? 50 : 2));

        string html = history.ToHtml();

        Assert.InRange(html.Length, 1_000, 40_000);
        var loss = XElement.Parse(html).Descendants("svg").First();
        double top = loss.Elements("path").First().Attribute("d")!.Value.Split('M', 'L').Skip(1)
            .Min(point => double.Parse(point.Split(' ')[1], System.Globalization.CultureInfo.InvariantCulture));
        Assert.InRange(top, 52, 90); // of an axis from 204 for 0 to 52 for 60
    }

    [Fact]
    public void A_history_of_nothing_says_so()
    {
        var history = new TrainingHistory();

        Assert.Equal("no steps yet", history.ToString());
        Assert.Empty(XElement.Parse(history.ToHtml()).Descendants("svg"));
    }
}
