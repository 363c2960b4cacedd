namespace ML.Rlhf.Tests.Reporting;

public sealed class ConsoleProgressTests
{
    private readonly StringWriter _console = new() { NewLine = "\n" };
    private readonly ManualTime _time = new();

    private string[] Lines => _console.ToString().Split('\n', StringSplitOptions.RemoveEmptyEntries);

    [Fact]
    public void Redirected_it_prints_ten_plain_lines_of_a_run()
    {
        var progress = Reporter(isLive: false);
        for (int step = 1; step <= 1000; step++)
            progress.Report(Records.Of(step, 1000));

        Assert.Equal(10, Lines.Length);
        Assert.Equal("GPT           100/1000 loss 2.5000 12345 tokens/s left 15:00", Lines[0]);
        Assert.Equal("GPT          1000/1000 loss 2.5000 12345 tokens/s left 0:00", Lines[^1]);
        Assert.DoesNotContain('\r', _console.ToString());
    }

    [Fact]
    public void Redirected_it_prints_each_step_that_measures_the_validation_loss()
    {
        var progress = Reporter(isLive: false);
        progress.Report(Records.Of(1, 1000));
        progress.Report(Records.Of(2, 1000, validation: 3.25));

        Assert.Equal("GPT             2/1000 loss 2.5000 validation 3.2500 12345 tokens/s left 16:38", Assert.Single(Lines));
    }

    [Fact]
    public void Live_it_draws_one_line_over_and_over_and_ends_it_with_the_run()
    {
        var progress = Reporter(isLive: true);
        foreach (int step in (int[])[1, 50, 99, 100])
        {
            _time.Advance(TimeSpan.FromSeconds(1));
            progress.Report(Records.Of(step));
        }

        string[] drawn = Assert.Single(Lines).Split('\r', StringSplitOptions.RemoveEmptyEntries);
        Assert.Equal(4, drawn.Length);
        Assert.StartsWith("GPT          [                    ]   1/100 loss 2.5000", drawn[0]);
        Assert.StartsWith("GPT          [==========          ]  50/100 ", drawn[1]);
        Assert.StartsWith("GPT          [====================] 100/100 ", drawn[3]);
        Assert.All(drawn.Zip(drawn.Skip(1)), pair => Assert.True(pair.Second.Length >= pair.First.TrimEnd().Length)); // nothing is left over
        Assert.EndsWith("\n", _console.ToString());
    }

    [Fact]
    public void Live_it_draws_ten_times_a_second_at_most_but_always_the_last_step()
    {
        var progress = Reporter(isLive: true);
        for (int step = 1; step <= 1000; step++)
        {
            _time.Advance(TimeSpan.FromMilliseconds(1));
            progress.Report(Records.Of(step, 1000));
        }

        string[] drawn = Assert.Single(Lines).Split('\r', StringSplitOptions.RemoveEmptyEntries);
        Assert.InRange(drawn.Length, 9, 12);
        Assert.Contains("1000/1000", drawn[^1]);
    }

    [Theory]
    [InlineData(40), InlineData(79), InlineData(0)]
    public void Live_it_never_fills_the_line_of_the_terminal_since_that_would_wrap(int columns)
    {
        var progress = Reporter(isLive: true, columns);
        progress.Report(Records.OfPolicy(1));

        Assert.InRange(_console.ToString().TrimStart('\r').TrimEnd('\n').Length, 1, (columns == 0 ? 80 : columns) - 1);
    }

    [Theory]
    [InlineData(true), InlineData(false)]
    public void An_alarm_gets_a_line_of_its_own(bool isLive)
    {
        var progress = Reporter(isLive);
        progress.Report(Records.OfPolicy(1, 100));
        progress.Report(Records.OfPolicy(2, 100, alarms: new TrainingAlarm(AlarmKind.HighKl, "The KL is high.", AlarmPolicy.Log)));
        progress.Report(Records.OfPolicy(3, 100));

        Assert.Contains("PPO          warning: The KL is high.", Lines);
    }

    [Fact]
    public void The_title_replaces_the_stage_and_days_are_told_as_days()
    {
        new ConsoleProgress("my run", isLive: false, _console, _time, () => 80).Report(
            Records.Of(1, 10) with { Elapsed = TimeSpan.FromHours(5) });

        Assert.Equal("my run        1/10 loss 2.5000 12345 tokens/s left 1 d 21 h", Assert.Single(Lines));
    }

    private ConsoleProgress Reporter(bool isLive, int columns = 120) => new(null, isLive, _console, _time, () => columns);

    private sealed class ManualTime : TimeProvider
    {
        private long _ticks;

        public override long TimestampFrequency => TimeSpan.TicksPerSecond;

        public void Advance(TimeSpan time) => _ticks += time.Ticks;

        public override long GetTimestamp() => _ticks;
    }
}
