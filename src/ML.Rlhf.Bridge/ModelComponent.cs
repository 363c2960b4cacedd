using Microsoft.ML.Runtime;

namespace ML.Rlhf.Bridge;

/// <summary>
/// A component that can be part of an ML.NET model file. It also implements <c>ITransformer</c> or
/// <c>IDataLoader&lt;IMultiStreamSource&gt;</c>, its <c>ICanSaveModel.Save</c> calls <see cref="ModelStore.Save{T}"/>, and its assembly
/// declares it with a <see cref="ModelComponentAttribute"/>.
/// </summary>
/// <typeparam name="TSelf">The component's own type.</typeparam>
internal interface IModelComponent<TSelf> where TSelf : IModelComponent<TSelf>
{
    /// <summary>Name of the component in model files, unique within its assembly. Renaming the class must not change it.</summary>
    static abstract string Id { get; }

    /// <summary>Version of what <see cref="Save"/> writes, from 1. <see cref="Load"/> reads this version and every earlier one
    /// that was released.</summary>
    static abstract int Version { get; }

    /// <summary>Writes what <see cref="Load"/> needs.</summary>
    void Save(ModelWriter writer);

    /// <summary>Reads, in the order in which <see cref="Save"/> wrote; <see cref="ModelReader.Version"/> says which version.</summary>
    static abstract TSelf Load(IHostEnvironment env, ModelReader reader);
}

/// <summary>
/// Declares a type as a model component: <c>[assembly: ModelComponent(typeof(MyTransformer))]</c>. A model file can create objects of
/// declared types and of no others, whatever it says.
/// </summary>
[AttributeUsage(AttributeTargets.Assembly, AllowMultiple = true)]
internal sealed class ModelComponentAttribute(Type type) : Attribute
{
    /// <summary>A type that implements <see cref="IModelComponent{TSelf}"/> of itself.</summary>
    public Type Type { get; } = type;
}
