using System.Text;
using System.Text.Json.Nodes;
using Microsoft.ML;
using ML.Rlhf.TestSupport;

namespace ML.Rlhf.Tests.Fuzz;

/// <summary>The files in which checkpoints have their chat templates, and the one that is saved with a model.</summary>
internal sealed class ChatTemplateFileFuzz : FuzzFormat
{
    private const string Saved = "saved/chat-template.json";

    private readonly ChatTemplateCatalog _templates = new MLContext().Rlhf().ChatTemplates;
    private readonly Dictionary<string, SplitText> _pieces;
    private readonly string[] _places;

    public ChatTemplateFileFuzz()
    {
        string source = File.ReadAllText(Golden.PathOf("chat-templates/llama-3.jinja"));
        Add("config/tokenizer_config.json", Encoding.UTF8.GetBytes(new JsonObject
        {
            ["bos_token"] = "<s>",
            ["eos_token"] = new JsonObject { ["content"] = "</s>", ["lstrip"] = false },
            ["chat_template"] = source,
        }.ToJsonString()));
        Add("named/tokenizer_config.json", Encoding.UTF8.GetBytes(new JsonObject
        {
            ["bos_token"] = "<s>",
            ["chat_template"] = new JsonArray(
                new JsonObject { ["name"] = "default", ["template"] = source }, new JsonObject { ["name"] = "rag", ["template"] = "a" }),
        }.ToJsonString()));
        Add("named/special_tokens_map.json", """
            {"eos_token": {"content": "</s>"}, "pad_token": "<pad>", "additional": ["<a>"]}
            """u8.ToArray());
        Add("file/chat_template.jinja", Encoding.UTF8.GetBytes(source));
        Add("file/tokenizer_config.json", """{"eos_token": "</s>", "chat_template": null}"""u8.ToArray());
        Add("file/additional_chat_templates/rag.jinja", "{{ eos_token }}"u8.ToArray());
        using var stream = new MemoryStream();
        _templates.Llama().Save(stream);
        Add(Saved, stream.ToArray());
        _places = [.. Whole.Keys];
        _pieces = Whole.ToDictionary(file => file.Key, file => new SplitText(Encoding.UTF8.GetString(file.Value)));
    }

    public override FuzzInput Damage(Mutator mutator)
    {
        string place = _places[mutator.Next(_places.Length)];
        return new(place, mutator.Next(4) > 0 ? Encoding.UTF8.GetBytes(mutator.Pieces(_pieces[place])) : mutator.Bytes(Whole[place]));
    }

    public override void Read(FuzzInput input)
    {
        ChatTemplate? template = null;
        if (input.Place == Saved)
            template = ChatTemplate.Load(new MemoryStream(input.Content));
        else
            WithDamaged(input, folder => template = _templates.FromPretrained(Path.Combine(Folder, input.Place.Split('/')[0])));
        try
        {
            template!.Render([ChatMessage.User("Hi"), ChatMessage.Assistant("Hello!")]);
        }
        catch (InvalidOperationException e)
        {
            Assert.StartsWith("The chat template cannot render this conversation", e.Message);
        }
    }

    /// <summary>Without a template, or without one of the name <c>default</c>, there is nothing damaged, but something missing.</summary>
    public override bool IsRefusal(Exception e) =>
        e is FormatException or FileNotFoundException || e is ArgumentException { ParamName: "name" };
}
