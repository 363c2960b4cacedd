namespace ML.Rlhf.Tests.Chat;

public sealed class ChatTemplateFilesTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;
    private readonly ChatTemplateCatalog _templates = new();

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void A_configuration_has_the_template_and_its_tokens()
    {
        Write("tokenizer_config.json", """
            {"chat_template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ pad_token }}",
             "bos_token": {"content": "<s>", "special": true}, "eos_token": "</s>", "pad_token": null}
            """);

        Assert.Equal("<s>Hi</s>", _templates.FromPretrained(_folder).Render([ChatMessage.User("Hi")]));
    }

    [Fact]
    public void A_template_file_of_its_own_comes_first()
    {
        Write("tokenizer_config.json", """{"chat_template": "old", "eos_token": "</s>"}""");
        Write("chat_template.jinja", "new {{ eos_token }}\n");

        Assert.Equal("new </s>", _templates.FromPretrained(_folder).Render([]));
    }

    [Fact]
    public void Tokens_may_stand_in_their_own_file()
    {
        Write("special_tokens_map.json", """{"eos_token": {"content": "<e>"}}""");
        Write("chat_template.jinja", "{{ eos_token }}");

        Assert.Equal("<e>", _templates.FromPretrained(_folder).Render([]));
    }

    [Fact]
    public void Of_several_templates_one_is_chosen_by_name()
    {
        Write("tokenizer_config.json", """
            {"chat_template": [{"name": "default", "template": "d"}, {"name": "rag", "template": "r"}]}
            """);
        Directory.CreateDirectory(Path.Combine(_folder, "additional_chat_templates"));
        Write("additional_chat_templates/tool_use.jinja", "t");

        Assert.Equal(
            ["d", "r", "t"], new[] { null, "rag", "tool_use" }.Select(name => _templates.FromPretrained(_folder, name).Render([])));
        var e = Assert.Throws<ArgumentException>(() => _templates.FromPretrained(_folder, "x"));
        Assert.Contains("has no chat template 'x', but 'default', 'rag', 'tool_use'. Give one of these names.", e.Message);
    }

    [Fact]
    public void A_checkpoint_without_a_template_is_told_apart_from_a_damaged_one()
    {
        Write("tokenizer_config.json", """{"chat_template": null, "eos_token": "</s>"}""");

        Assert.Contains("has no chat template: no 'chat_template.jinja'",
            Assert.Throws<FileNotFoundException>(() => _templates.FromPretrained(_folder)).Message);
        Assert.Throws<FileNotFoundException>(() => _templates.FromPretrained(Path.Combine(_folder, "nowhere")));
    }

    [Theory]
    [InlineData("{", "is not valid JSON")]
    [InlineData("[]", "is no JSON object")]
    [InlineData("""{"chat_template": 1}""", "'chat_template' is neither a text nor a list of named texts")]
    [InlineData("""{"chat_template": [{"name": "a"}]}""", "each item of 'chat_template' needs a 'name' and a 'template'")]
    [InlineData("""{"chat_template": "\ud800"}""", "has a text that is not well-formed Unicode")]
    [InlineData("""{"chat_template": "", "eos_token": {"content": "\ud800"}}""", "has a text that is not well-formed Unicode")]
    [InlineData("""{"chat_template": "{% if %}"}""", "The chat template cannot be read: line 1: ")]
    public void A_damaged_configuration_is_refused(string json, string reason)
    {
        Write("tokenizer_config.json", json);

        Assert.Contains(reason, Assert.Throws<FormatException>(() => _templates.FromPretrained(_folder)).Message);
    }

    [Fact]
    public void What_is_written_is_read_again_and_replaces_what_was_there()
    {
        Write("chat_template.jinja", "old");
        var template = _templates.HumanAssistant("<e>");

        ChatTemplateFiles.Write(template, _folder);
        ChatMessage[] messages = [ChatMessage.User("Hi"), ChatMessage.Assistant("Ho")];
        Assert.Equal("Human: Hi\n\nAssistant: Ho<e>\n\n", _templates.FromPretrained(_folder).Render(messages));

        ChatTemplateFiles.Write(null, _folder);
        Assert.Throws<FileNotFoundException>(() => _templates.FromPretrained(_folder));
    }

    private void Write(string name, string content) => File.WriteAllText(Path.Combine(_folder, name), content);
}
