using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace ML.Rlhf.Samples.Tests.Notebooks;

/// <summary>A notebook in Jupyter's format 4: cells of prose and of C#, with what they gave when they were last run.</summary>
internal sealed class Notebook
{
    private static readonly JsonSerializerOptions s_json = new()
    {
        WriteIndented = true, IndentSize = 1, NewLine = "\n", Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
    };

    private readonly JsonObject _root;

    private Notebook(JsonObject root) => _root = root;

    public static Notebook Read(string file) => new(JsonNode.Parse(File.ReadAllText(file))!.AsObject());

    public void Write(string file) => File.WriteAllText(file, _root.ToJsonString(s_json) + "\n");

    public int Format => (int)_root["nbformat"]!;

    public string? Kernel => (string?)_root["metadata"]?["kernelspec"]?["name"];

    public IEnumerable<Cell> Code => _root["cells"]!.AsArray().Select(cell => cell!.AsObject())
        .Where(cell => (string)cell["cell_type"]! == "code").Select(cell => new Cell(cell));

    public string Prose => string.Join("\n", _root["cells"]!.AsArray().Where(cell => (string)cell!["cell_type"]! == "markdown")
        .Select(cell => Text(cell!["source"]!)));

    /// <summary>Jupyter keeps texts as lists of lines.</summary>
    private static string Text(JsonNode node) => node is JsonArray lines ? string.Concat(lines.Select(line => (string)line!)) : (string)node!;

    private static JsonArray Lines(string text)
    {
        var lines = new JsonArray();
        for (int start = 0, next; start < text.Length; start = next)
        {
            next = text.IndexOf('\n', start) is >= 0 and var end ? end + 1 : text.Length;
            lines.Add(text[start..next]);
        }
        return lines;
    }

    internal sealed class Cell(JsonObject json)
    {
        public string Source => Text(json["source"]!);

        /// <summary>The kind of each output, such as "stream" or "text/html".</summary>
        public string[] Outputs => [.. json["outputs"]!.AsArray().Select(output => (string)output!["output_type"]! == "stream"
            ? "stream"
            : output["data"]!.AsObject().First().Key)];

        public void SetOutputs(int executionCount, IEnumerable<Output> outputs)
        {
            json["execution_count"] = executionCount;
            json["outputs"] = new JsonArray([.. outputs.Select(output => Json(output, executionCount))]);
        }

        private static JsonObject Json(Output output, int executionCount)
        {
            if (output.Kind == "stream")
                return new JsonObject { ["name"] = "stdout", ["output_type"] = "stream", ["text"] = Lines(output.Data["stdout"]) };
            var json = new JsonObject
            {
                ["data"] = new JsonObject(output.Data.Select(item => KeyValuePair.Create(item.Key, (JsonNode?)Lines(item.Value)))),
                ["metadata"] = new JsonObject(),
                ["output_type"] = output.Kind,
            };
            if (output.Kind == "execute_result")
                json["execution_count"] = executionCount;
            return json;
        }
    }
}

/// <summary>What a cell gave.</summary>
/// <param name="Kind">"stream", "display_data" or "execute_result".</param>
/// <param name="Data">By MIME type, or what was printed as "stdout".</param>
internal sealed record Output(string Kind, IReadOnlyDictionary<string, string> Data);
