using System.Collections;
using System.Globalization;
using System.Reflection;

namespace ML.Rlhf.Torch.Training;

/// <summary>What a person chose, as names and texts that can be kept and compared.</summary>
internal static class OptionValues
{
    /// <summary>
    /// What changes no weight: who listens, when to stop, names of columns, where tokens are kept, and how the trained model will answer.
    /// Texts reach the weights as tokens, and these have a fingerprint; so tokenizers and templates are not looked at.
    /// </summary>
    private static bool IsWithoutInfluence(string name) =>
        name is nameof(OptimizationOptions.Progress) or nameof(OptimizationOptions.CancellationToken)
            or nameof(OptimizationOptions.Checkpoints) or nameof(OptimizationOptions.WhenCanceled)
            or nameof(OptimizationOptions.MaxSkippedSteps) or nameof(OptimizationOptions.Seed) // the run knows its seed
            or "Sampling" or nameof(TokenFile) || name.EndsWith("ColumnName", StringComparison.Ordinal);

    /// <summary>The values of a record of options, those of records in it under names such as <c>Lora.Rank</c>.</summary>
    public static IEnumerable<(string Name, string Value)> Of(object options, string prefix = "")
    {
        foreach (var property in options.GetType().GetProperties(BindingFlags.Public | BindingFlags.Instance))
        {
            if (property.GetIndexParameters().Length > 0 || IsWithoutInfluence(property.Name))
                continue;
            string name = prefix + property.Name;
            var (kind, value) = (KindOf(property.PropertyType), property.GetValue(options));
            if (kind == Kind.Value)
                yield return (name, Text(value));
            else if (kind == Kind.List)
                yield return (name, value is null ? "null" : $"[{string.Join(", ", ((IEnumerable)value).Cast<object?>().Select(Text))}]");
            else if (kind == Kind.Record && value is null)
                yield return (name, "null");
            else if (kind == Kind.Record)
            {
                foreach (var inner in Of(value!, name + "."))
                    yield return inner;
            }
        }
    }

    private enum Kind
    {
        /// <summary>Data, tokenizers, rewards: they are no numbers that a person chose.</summary>
        Other,
        Value,
        List,
        Record,
    }

    private static Kind KindOf(Type type)
    {
        type = Nullable.GetUnderlyingType(type) ?? type;
        if (type.IsPrimitive || type.IsEnum || type == typeof(string) || type == typeof(TimeSpan))
            return Kind.Value;
        if (type.IsGenericType && type.IsAssignableTo(typeof(IEnumerable)))
            return Kind.List;
        bool isRecord = type.GetMethod("<Clone>$") is not null;
        return isRecord ? Kind.Record : Kind.Other;
    }

    private static string Text(object? value) => value switch
    {
        null => "null",
        IFormattable number => number.ToString(null, CultureInfo.InvariantCulture),
        _ => value.ToString()!,
    };
}
