using System.Xml.Linq;
using Microsoft.ML;

namespace ML.Rlhf.Tests.Reporting;

/// <summary>What shows itself as a picture in a notebook.</summary>
public sealed class DisplayTests
{
    private static readonly MLContext s_ml = new(seed: 1);

    /// <summary>What a notebook's kernel does: it looks for an attribute of this name, and calls what it leads to by name.</summary>
    [Fact]
    public void Kernels_of_notebooks_find_the_formatter_of_each_display_by_its_name()
    {
        var displays = typeof(TrainingHistory).Assembly.GetTypes().Where(type =>
            type.IsClass && type.GetInterfaces().Any(i => i.Name == nameof(IHtmlDisplay))).ToArray();
        Assert.Contains(typeof(TrainingHistory), displays);

        foreach (var type in displays)
        {
            var attribute = Assert.Single(type.GetCustomAttributes(inherit: true), a => a.GetType().Name == "TypeFormatterSourceAttribute");
            var source = Activator.CreateInstance((Type)attribute.GetType().GetProperty("FormatterSourceType")!.GetValue(attribute)!)!;
            var formatters = (IEnumerable<object>)source.GetType().GetMethod("CreateTypeFormatters")!.Invoke(source, null)!;
            Assert.Equal(
                ["text/html", "text/plain"], formatters.Select(f => (string)f.GetType().GetProperty("MimeType")!.GetValue(f)!));
            Assert.NotNull(type.GetMethod("ToHtml", []));
        }
    }

    [Fact]
    public void A_formatter_writes_the_picture_as_HTML_and_the_summary_as_text()
    {
        var history = new TrainingHistory();
        history.Report(Records.Of(1));
        StringWriter html = new(), text = new();

        Assert.True(new HtmlFormatter("text/html").Format(history, html));
        Assert.True(new HtmlFormatter("text/plain").Format(history, text));
        Assert.False(new HtmlFormatter("text/html").Format(this, html));

        Assert.Equal(history.ToHtml(), html.ToString());
        Assert.Equal(history.ToString(), text.ToString());
    }

    [Fact]
    public void Attention_shows_a_map_of_each_head()
    {
        var attention = Tiny.Model.GetAttentionWeights("the cat sat.");
        var maps = XElement.Parse(attention.ToHtml()).Descendants("svg").ToArray();

        Assert.Equal(["layer 0, head 0", "layer 0, head 1"], maps.Select(map => map.Attribute("aria-label")!.Value));
        Assert.Equal(2 * attention.Tokens.Count + 1, maps[0].Elements("text").Count()); // a title, and each token at its row and column
        Assert.NotEmpty(maps[0].Elements("path"));
    }

    [Fact]
    public void Metrics_of_a_reward_model_show_its_calibration()
    {
        var metrics = s_ml.Rlhf().EvaluateRewardModel(Tiny.Reward, s_ml.Data.LoadFromEnumerable(Tiny.Preferences));
        var html = XElement.Parse(metrics.ToHtml());

        Assert.Equal(metrics.Calibration.Count, html.Descendants("circle").Count());
        Assert.Contains("accuracy", html.Descendants("dt").Select(name => name.Value));
    }

    [Fact]
    public void Over_optimisation_shows_proxy_and_gold_over_the_KL()
    {
        var curve = new OverOptimizationCurve("best of n", [Point(2, 0.5), Point(1, 0.25)]);

        Assert.Equal([1, 2], curve.Points.Select(p => p.Kl));
        var chart = XElement.Parse(curve.ToHtml());
        Assert.Equal("best of n", chart.Attribute("aria-label")!.Value);
        Assert.Equal(2, chart.Elements("path").Count());
        Assert.StartsWith("KL 1.00: proxy 0.250 ± 0.100, gold", curve.ToString());

        static OverOptimizationPoint Point(double kl, double score) => new()
        {
            Kl = kl, ProxyScore = score, ProxyStandardError = 0.1, GoldScore = score / 2, GoldStandardError = double.NaN,
        };
    }

    [Fact]
    public void Samples_show_the_answers_of_each_model_to_the_same_prompts_with_their_scores()
    {
        var prompts = s_ml.Data.LoadFromEnumerable(Tiny.Demonstrations.Select(d => new PromptOnly { Prompt = d.Prompt }));
        var rlhf = s_ml.Rlhf();
        var samples = rlhf.CompareSamples(
            prompts, [("one", Tiny.Model), ("two", Tiny.Model)], rlhf.Rewards.FromFunction((prompt, answer) => prompt.Length + answer.Length));

        Assert.Equal(Tiny.Demonstrations.Select(d => d.Prompt), samples.Prompts);
        Assert.Equal(["one", "two"], samples.Models.Select(model => model.Name));
        Assert.Equal(samples.Models[0].Completions, samples.Models[1].Completions);
        Assert.Equal(
            samples.Prompts.Zip(samples.Models[0].Completions, (p, c) => (double)p.Length + c.Length), samples.Models[0].Scores!);
        var html = XElement.Parse(samples.ToHtml());
        Assert.Equal(samples.Prompts.Count, html.Descendants("tbody").Elements("tr").Count());
        Assert.Single(html.Descendants("svg"));
        Assert.StartsWith($"{samples.Prompts.Count} prompts; one ", samples.ToString());
    }

    [Fact]
    public void Samples_without_a_judge_have_no_scores_and_no_chart()
    {
        var samples = s_ml.Rlhf().CompareSamples(
            s_ml.Data.LoadFromEnumerable([new PromptOnly { Prompt = "cat" }]), [("one", Tiny.Model)]);

        Assert.Null(samples.Models[0].Scores);
        Assert.Empty(XElement.Parse(samples.ToHtml()).Descendants("svg"));
    }

    /// <summary>A histogram of one value, of one number, of numbers far from 0, and of none that is finite.</summary>
    [Theory]
    [InlineData(1.0, 1.0, 1.0), InlineData(-3.5), InlineData(1e9, 1e9 + 1), InlineData(double.NaN), InlineData(0.0, double.PositiveInfinity)]
    public void Scores_of_any_kind_have_a_histogram_whose_marks_differ(params double[] scores)
    {
        var samples = new SampleTable(["p"], [new ModelSamples("m", ["c"], scores)]);
        var chart = XElement.Parse(samples.ToHtml()).Descendants("svg").Single();
        string[] marks = [.. chart.Elements("text").Where(t => t.Attribute("text-anchor")!.Value == "middle").Select(t => t.Value)];

        Assert.NotEmpty(marks);
        Assert.Equal(marks.Distinct(), marks);
        Assert.DoesNotContain("NaN", string.Concat(chart.Descendants("path").Select(path => path.Attribute("d")!.Value)));
    }

    [Fact]
    public void Samples_of_no_model_are_an_error()
    {
        var prompts = s_ml.Data.LoadFromEnumerable([new PromptOnly { Prompt = "cat" }]);

        Assert.Throws<ArgumentException>(() => s_ml.Rlhf().CompareSamples(prompts, []));
        Assert.Throws<ArgumentOutOfRangeException>(() => s_ml.Rlhf().CompareSamples(prompts, [("one", Tiny.Model)], promptColumnName: "X"));
    }

    /// <summary>Models write anything. What is no character of XML or HTML must not end the page.</summary>
    [Fact]
    public void Whatever_a_model_writes_is_shown_as_text()
    {
        const string Wild = "<script>alert('x')</script>&amp;\0\u0001\uD800\uFFFE 𝄞";
        var samples = new SampleTable([Wild], [new ModelSamples(Wild, [Wild], [double.NaN])]);

        var html = XElement.Parse(samples.ToHtml());

        Assert.Empty(html.Descendants("script"));
        Assert.Contains("<script>alert('x')</script>&amp;\uFFFD\uFFFD\uFFFD\uFFFD 𝄞", html.Value);
    }
}
