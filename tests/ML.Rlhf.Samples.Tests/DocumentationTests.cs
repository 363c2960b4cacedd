using System.Globalization;
using System.Reflection;
using System.Runtime.CompilerServices;
using System.Text.RegularExpressions;
using Microsoft.ML;

namespace ML.Rlhf.Samples.Tests;

/// <summary>
/// What README and docs say is so: programs compile, names exist, numbers are computed, messages are those of the sources.
/// </summary>
public sealed partial class DocumentationTests
{
    private static readonly Type[] s_types =
    [
        .. new[] { typeof(RlhfCatalog).Assembly, typeof(TrainingProgress).Assembly, typeof(MLContext).Assembly }
            .SelectMany(assembly => assembly.GetExportedTypes()),
    ];

    public static TheoryData<string> Pages => [.. Snippets.Pages];

    [Theory]
    [MemberData(nameof(Pages))]
    public void Every_program_of_a_page_compiles_as_it_stands(string page)
    {
        foreach (var snippet in Snippets.All.Where(snippet => snippet.Page == page))
            Assert.True(Snippets.Problems(snippet) is { Count: 0 }, string.Join('\n', Snippets.Problems(snippet)) + "\n" + snippet.Code);
    }

    [Fact]
    public void A_program_with_a_mistake_does_not_compile() => Assert.Contains(
        "CS1061", Assert.Single(Snippets.Problems(new Snippet("", "using ML.Rlhf; new Microsoft.ML.MLContext().Rlhf().NoSuchThing();"))));

    [Theory]
    [MemberData(nameof(Pages))]
    public void Links_lead_to_files_that_exist(string page)
    {
        string folder = Path.GetDirectoryName(Path.Combine(Repository.Root, page))!;
        Assert.All(
            Link().Matches(Snippets.Read(page)).Select(match => match.Groups[1].Value)
                .Where(link => !link.Contains("://", StringComparison.Ordinal)),
            link => Assert.True(File.Exists(Path.Combine(folder, link.Split('#')[0])), $"{page} links to {link}"));
    }

    [Fact]
    public void Every_page_of_docs_is_linked_from_the_README() => Assert.All(
        Snippets.Pages.Where(page => page != "README.md"), page => Assert.Contains($"({page})", Snippets.Read("README.md")));

    [Fact]
    public void Metrics_lists_exactly_the_names_that_each_progress_record_gives()
    {
        var records = typeof(TrainingProgress).Assembly.GetExportedTypes()
            .Where(type => type.IsAssignableTo(typeof(TrainingProgress))).ToArray();
        Assert.Equal(7, records.Length);
        Assert.All(records, record => Assert.Equal(
            Names(record).Except(record.BaseType == typeof(object) ? [] : Names(record.BaseType!)).Order(),
            Listed("metrics.md", record.Name).Order()));

        static IReadOnlyCollection<string> Names(Type record)
        {
            // No step measures everything, so a record is filled by hand.
            var progress = (TrainingProgress)RuntimeHelpers.GetUninitializedObject(record);
            foreach (var property in record.GetProperties().Where(p => p.PropertyType == typeof(double?) && p.CanWrite))
                property.SetValue(progress, 1.0);
            return [.. progress.ToMetrics().Keys];
        }
    }

    [Fact]
    public void Metrics_lists_exactly_the_alarms_that_there_are() =>
        Assert.Equal(Enum.GetNames<AlarmKind>().Order(), Listed("metrics.md", nameof(AlarmKind)).Order());

    [Theory]
    [InlineData(typeof(LanguageModelMetrics))]
    [InlineData(typeof(MaskedLanguageModelMetrics))]
    [InlineData(typeof(RewardModelMetrics))]
    [InlineData(typeof(PolicyMetrics))]
    [InlineData(typeof(WinRateMetrics))]
    [InlineData(typeof(OverOptimizationPoint))]
    [InlineData(typeof(OverOptimizationFit))]
    public void Metrics_lists_exactly_the_properties_of_each_evaluation(Type metrics) =>
        Assert.Equal(metrics.GetProperties().Select(property => property.Name).Order(), Listed("metrics.md", metrics.Name).Order());

    [Fact]
    public void Names_of_TRL_are_mapped_to_metrics_that_there_are()
    {
        string metrics = Snippets.Read("docs/metrics.md");
        Assert.All(
            Rows("from-python.md", "Names in the logs").SelectMany(row => Code(row[1])),
            name => Assert.Contains($"| `{name}` |", metrics));
    }

    [Fact]
    public void The_planning_table_has_the_numbers_of_the_formula()
    {
        var rows = Rows("planning.md", "Memory");
        Assert.Equal(9, rows.Count);
        Assert.All(rows, row =>
        {
            string name = Code(row[0]).Single();
            var shape = (GptArchitecture)typeof(GptArchitecture).GetProperty(name)!.GetValue(null)!;
            Assert.Equal(Row(shape), row[1..]);
        });

        static string[] Row(GptArchitecture shape)
        {
            double parameters = shape.ParameterCount;
            return
            [
                $"{shape.Layers} × {shape.Width}, {shape.ContextLength.ToString("#,0", CultureInfo.InvariantCulture)}",
                (parameters / 1e6).ToString(parameters < 1e8 ? "0.0" : "#,0", CultureInfo.InvariantCulture),
                Megabytes(4 * parameters), Training(1, 24, 70), Training(12, 24, 70), Training(12, 4, 90),
                Megabytes(28 * parameters), Megabytes(44 * parameters),
            ];

            // As OptimizationOptions.MicroBatchSize says.
            string Training(int texts, int perLayer, int besides) => Megabytes(
                160e6 + 16 * parameters + texts * shape.ContextLength
                    * (shape.Width * (perLayer * (double)shape.Layers + besides) + 2.0 * Math.Min(shape.VocabularySize, 2048)));
        }

        static string Megabytes(double bytes) => (bytes / (1 << 20)).ToString("#,0", CultureInfo.InvariantCulture);
    }

    [Fact]
    public void Speeds_are_those_that_were_measured()
    {
        string results = File.ReadAllText(Path.Combine(Repository.Root, "tests", "ML.Rlhf.Benchmarks", "RESULTS.md"));
        var rows = Rows("planning.md", "Speed");
        Assert.NotEmpty(rows);
        Assert.All(rows.SelectMany(row => row[1..]), number => Assert.Matches($@"(?<![\d.,]){Regex.Escape(number)}(?![\d.,]*\d)", results));
    }

    [Fact]
    public void Messages_are_quoted_as_the_sources_have_them()
    {
        string ours = Sources("src"), mlNet = Sources("tests/ML.Rlhf.Tests"); // our tests pin the messages that ML.NET words
        var quoted = Tables("troubleshooting.md").Where(table => table.Header[0] == "message").SelectMany(table => table.Rows)
            .SelectMany(row => Code(row[0])).ToArray();
        Assert.True(quoted.Length > 50);
        Assert.All(quoted, text => Assert.True(
            (text.StartsWith("Could not find", StringComparison.Ordinal) || text.StartsWith("Schema mismatch", StringComparison.Ordinal)
                ? mlNet : ours).Contains(text, StringComparison.Ordinal),
            $"No source says \"{text}\"."));

        // Messages that are broken over lines count as one.
        static string Sources(string folder) => StringSum().Replace(
            string.Join('\n', Directory.EnumerateFiles(Path.Combine(Repository.Root, folder), "*.cs", SearchOption.AllDirectories)
                .Where(file => !file.Contains($"{Path.DirectorySeparatorChar}obj{Path.DirectorySeparatorChar}", StringComparison.Ordinal))
                .Select(File.ReadAllText)), "");
    }

    [Fact]
    public void Names_that_Python_is_mapped_to_exist_and_have_the_defaults_that_are_told()
    {
        int names = 0, defaults = 0;
        foreach (var (header, rows) in Tables("from-python.md"))
        {
            int ours = Array.IndexOf(header, "ours"), value = Array.IndexOf(header, "default here");
            if (header[0] != "Python")
                continue;
            foreach (string[] row in rows)
            {
                foreach (string name in Code(row[ours]))
                {
                    names++;
                    Assert.True(Exists(name), $"There is no {name}, which '{row[0]}' is mapped to.");
                }
                if (value >= 0 && row[value].Length > 0)
                {
                    defaults++;
                    Assert.True(IsDefault(Code(row[ours]).Single(), row[value]), $"{row[ours]} is not {row[value]} by default.");
                }
            }
        }
        Assert.True(names > 100 && defaults > 70, $"{names} names, {defaults} defaults");
    }

    /// <summary>Whether a dotted name begins with a public type or a property of the catalog, and goes on with members.</summary>
    private static bool Exists(string name)
    {
        string[] parts = name.Split('.');
        var type = s_types.FirstOrDefault(type => type.Name == parts[0]) ?? typeof(RlhfCatalog).GetProperty(parts[0])?.PropertyType;
        return parts.Length <= 2 && type is not null && (parts.Length == 1 || type.GetMember(parts[1]).Length > 0);
    }

    private static bool IsDefault(string name, string value)
    {
        string[] parts = name.Split('.');
        var type = s_types.First(type => type.Name == parts[0]);
        object? actual = type.GetProperty(parts[1])!.GetValue(Activator.CreateInstance(type));
        return actual switch
        {
            null => value == "null",
            bool or Enum or string => string.Equals(actual.ToString(), value, StringComparison.OrdinalIgnoreCase),
            _ => (float)Convert.ToDouble(actual, CultureInfo.InvariantCulture) == float.Parse(value, CultureInfo.InvariantCulture),
        };
    }

    /// <summary>The names in the first column of a section's tables.</summary>
    private static IEnumerable<string> Listed(string page, string section) => Rows(page, section).SelectMany(row => Code(row[0]));

    /// <summary>The rows of the first table under the heading that has these words, or this name in code.</summary>
    private static IReadOnlyList<string[]> Rows(string page, string section)
    {
        string text = Snippets.Read("docs/" + page);
        var heading = Regex.Match(text, $@"^#+ (?:.*`{Regex.Escape(section)}`|{Regex.Escape(section)})$", RegexOptions.Multiline);
        Assert.True(heading.Success, $"{page} has no section for {section}.");
        return TablesOf(text[heading.Index..]).First().Rows;
    }

    private static IEnumerable<(string[] Header, IReadOnlyList<string[]> Rows)> Tables(string page) =>
        TablesOf(Snippets.Read("docs/" + page));

    private static IEnumerable<(string[] Header, IReadOnlyList<string[]> Rows)> TablesOf(string text) => Table().Matches(text)
        .Select(match => match.Value.TrimEnd().Split('\n'))
        .Select(lines => lines.Select(line => line.Trim('|').Split('|', StringSplitOptions.TrimEntries)).ToArray())
        .Select(rows => (rows[0], (IReadOnlyList<string[]>)rows[2..]));

    private static IEnumerable<string> Code(string cell) => InCode().Matches(cell).Select(match => match.Groups[1].Value);

    [GeneratedRegex(@"\]\(([^)\s]+)\)")]
    private static partial Regex Link();

    [GeneratedRegex(@"^\|.*\|\n\|[-:| ]+\|\n(?:\|.*\|\n?)*", RegexOptions.Multiline)]
    private static partial Regex Table();

    [GeneratedRegex("`([^`]+)`")]
    private static partial Regex InCode();

    [GeneratedRegex("""(?<!\\)"\s*\+\s*\$?"(?!")""")]
    private static partial Regex StringSum();
}
