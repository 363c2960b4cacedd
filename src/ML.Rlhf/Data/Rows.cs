namespace ML.Rlhf;

/// <summary>A row of a pretraining corpus.</summary>
/// <remarks>A line of JSON Lines: <c>{"text": "Once upon a time, …"}</c></remarks>
public sealed class Document
{
    /// <summary>The text of one document.</summary>
    public string Text { get; set; } = "";
}

/// <summary>A row for supervised fine-tuning: a prompt and how a person answered it.</summary>
/// <remarks>A line of JSON Lines: <c>{"prompt": "Say hello.", "completion": "Hello!"}</c></remarks>
public sealed class Demonstration
{
    /// <summary>What is asked.</summary>
    public string Prompt { get; set; } = "";

    /// <summary>The answer to learn.</summary>
    public string Completion { get; set; } = "";
}

/// <summary>A row for a reward model: a prompt and two completions, of which people preferred one.</summary>
/// <remarks>A line of JSON Lines: <c>{"prompt": "Say hello.", "chosen": "Hello!", "rejected": "What?"}</c></remarks>
public sealed class Preference
{
    /// <summary>What is asked.</summary>
    public string Prompt { get; set; } = "";

    /// <summary>The completion that people preferred.</summary>
    public string Chosen { get; set; } = "";

    /// <summary>The other completion.</summary>
    public string Rejected { get; set; } = "";
}

/// <summary>A row for a reward model: a prompt and several completions, which people ranked.</summary>
/// <remarks>
/// A line of JSON Lines: <c>{"prompt": "Say hello.", "answers": ["Hello!", "Hi!", "What?"], "ranks": [1, 1, 2]}</c>
/// </remarks>
public sealed class Ranking
{
    /// <summary>What is asked.</summary>
    public string Prompt { get; set; } = "";

    /// <summary>The completions, in any order.</summary>
    public string[] Answers { get; set; } = [];

    /// <summary>The place of each completion: lower is better, and equal numbers are a tie.</summary>
    public float[] Ranks { get; set; } = [];
}

/// <summary>A row for KTO: a prompt, a completion, and whether people found it a good one.</summary>
/// <remarks>A line of JSON Lines: <c>{"prompt": "Say hello.", "completion": "Hello!", "label": true}</c></remarks>
public sealed class Feedback
{
    /// <summary>What is asked.</summary>
    public string Prompt { get; set; } = "";

    /// <summary>The completion that was judged.</summary>
    public string Completion { get; set; } = "";

    /// <summary>Whether the completion is desirable.</summary>
    public bool Label { get; set; }
}

/// <summary>A prompt alone: a row for PPO, and the input of a model that completes prompts.</summary>
/// <remarks>A line of JSON Lines: <c>{"prompt": "Say hello."}</c></remarks>
public sealed class PromptOnly
{
    /// <summary>What is asked.</summary>
    public string Prompt { get; set; } = "";
}

/// <summary>What a model that completes prompts returns, as the output of a prediction engine or of <c>CreateEnumerable</c>.</summary>
/// <remarks>As a line of JSON Lines: <c>{"prompt": "Say hello.", "completion": "Hello!"}</c></remarks>
public sealed class Generated
{
    /// <summary>The prompt, if the model's output still has it.</summary>
    public string? Prompt { get; set; }

    /// <summary>The text that the model added.</summary>
    public string Completion { get; set; } = "";
}

/// <summary>What a reward model returns, as the output of a prediction engine or of <c>CreateEnumerable</c>.</summary>
/// <remarks>As a line of JSON Lines: <c>{"score": 1.25}</c></remarks>
public sealed class ScoredCompletion
{
    /// <summary>How good the completion is: any number, higher is better.</summary>
    public float Score { get; set; }
}
