using System.Globalization;

namespace ML.Rlhf;

/// <summary>Collects what is wrong with an options object, so that one exception reports everything.</summary>
internal sealed class OptionProblems(string optionsName)
{
    private readonly List<string> _problems = [];

    public void Require(bool holds, string option, object? value, string allowed)
    {
        if (!holds)
            _problems.Add(string.Create(CultureInfo.InvariantCulture, $"{option} is {value ?? "null"}, but must be {allowed}"));
    }

    /// <summary>Requires the name of a column.</summary>
    public void RequireName(string option, string name)
    {
        if (string.IsNullOrWhiteSpace(name))
            _problems.Add($"{option} is empty, but must be the name of a column");
    }

    /// <summary>Adds the problems of options within these options.</summary>
    public void Include(Action validate)
    {
        try
        {
            validate();
        }
        catch (ArgumentException e)
        {
            _problems.Add(e.Message.TrimEnd('.'));
        }
    }

    /// <exception cref="ArgumentException">There was at least one problem.</exception>
    public void Throw()
    {
        if (_problems.Count > 0)
            throw new ArgumentException($"{optionsName}: {string.Join("; ", _problems)}.");
    }
}
