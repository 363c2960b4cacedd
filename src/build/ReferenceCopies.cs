using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Text;
using Microsoft.Build.Framework;
using Microsoft.Build.Utilities;

/// <summary>
/// MSBuild task: copies assemblies for the compiler to see, with other visibilities. They are bits in three tables of the metadata
/// (ECMA-335 partition II: PE file §25, metadata root §24.2, tables §22), changed in place, so nothing moves and nothing else changes.
/// Compiled by MSBuild itself against .NET Standard 2.0, which is why it reads the headers with <see cref="BitConverter"/>.
/// </summary>
public abstract class ReferenceCopies : Task
{
    /// <summary>The assemblies to copy.</summary>
    [Required]
    public ITaskItem[] Sources { get; set; }

    /// <summary>Where the copies go, in the order of <see cref="Sources"/>.</summary>
    [Required]
    public ITaskItem[] Destinations { get; set; }

    public override bool Execute()
    {
        for (var i = 0; i < Sources.Length; i++)
        {
            var image = File.ReadAllBytes(Sources[i].GetMetadata("FullPath"));
            Change(image);
            WriteWhole(Destinations[i].GetMetadata("FullPath"), image);
        }
        return !Log.HasLoggedErrors;
    }

    protected abstract void Change(byte[] image);

    /// <summary>Another build may be reading the same copy: write beside it, then put the finished file in its place.</summary>
    private static void WriteWhole(string path, byte[] content)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(path));
        var temporary = path + "." + Guid.NewGuid().ToString("N");
        File.WriteAllBytes(temporary, content);
        try
        {
            if (File.Exists(path))
                File.Replace(temporary, path, null);
            else
                File.Move(temporary, path);
        }
        catch (IOException) when (File.Exists(path) && File.ReadAllBytes(path).SequenceEqual(content))
        {
            File.Delete(temporary); // the other build was first
        }
    }

    protected static byte WithVisibility(byte flags, int visibility) => (byte)((flags & ~7) | visibility);
}

/// <summary>Makes every internal type and member public.</summary>
public sealed class PublicizeAssemblies : ReferenceCopies
{
    protected override void Change(byte[] image)
    {
        var tables = new MetadataTables(image);
        foreach (var row in tables.Rows(MetadataTables.TypeDef))
            image[row] = WithVisibility(image[row], PublicType(image[row] & 7));         // Flags is the first column
        foreach (var row in tables.Rows(MetadataTables.Field))
            image[row] = WithVisibility(image[row], PublicMember(image[row] & 7));       // Flags is the first column
        foreach (var row in tables.Rows(MetadataTables.MethodDef))
            image[row + 6] = WithVisibility(image[row + 6], PublicMember(image[row + 6] & 7)); // RVA (4), ImplFlags (2), Flags
    }

    /// <summary>
    /// §23.1.15: internal (0) becomes public (1); nested internal, private protected and protected internal (5..7) nested public (2).
    /// </summary>
    private static int PublicType(int visibility) => visibility == 0 ? 1 : visibility >= 5 ? 2 : visibility;

    /// <summary>
    /// §23.1.5, §23.1.10: internal (3) and protected internal (5) become public (6); private protected (2) becomes protected (4).
    /// </summary>
    private static int PublicMember(int visibility) => visibility == 3 || visibility == 5 ? 6 : visibility == 2 ? 4 : visibility;
}

/// <summary>Makes methods private, so that the compiler of another assembly does not find them.</summary>
public sealed class HideMethods : ReferenceCopies
{
    /// <summary>As "Type.Method", without namespace; all overloads are hidden.</summary>
    [Required]
    public ITaskItem[] Methods { get; set; }

    protected override void Change(byte[] image)
    {
        var tables = new MetadataTables(image);
        var hidden = Methods.ToDictionary(method => method.ItemSpec, _ => false);
        foreach (var (name, row) in tables.Methods())
        {
            if (!hidden.ContainsKey(name))
                continue;
            image[row + 6] = WithVisibility(image[row + 6], 1); // §23.1.10
            hidden[name] = true;
        }
        foreach (var name in hidden.Where(method => !method.Value).Select(method => method.Key))
            Log.LogError("There is no method '" + name + "' to hide. If an update removed it, remove it from the list.");
    }
}

/// <summary>
/// Finds the rows of the first few metadata tables: types, fields and methods. All tables before them must be sized on the way.
/// </summary>
internal sealed class MetadataTables
{
    public const int Module = 0, TypeRef = 1, TypeDef = 2, FieldPtr = 3, Field = 4, MethodPtr = 5, MethodDef = 6, Param = 8;
    private const int ModuleRef = 26, TypeSpec = 27, AssemblyRef = 35;

    private readonly byte[] _image;
    private readonly int _firstRow;
    private readonly int _texts;
    private readonly int _textSize;
    private readonly int[] _rowCounts = new int[64];
    private readonly int[] _rowSizes = new int[MethodDef + 1];

    public MetadataTables(byte[] image)
    {
        _image = image;
        var stream = Stream("#~");
        _texts = Stream("#Strings");
        var present = BitConverter.ToUInt64(image, stream + 8); // bit n: table n exists
        _firstRow = stream + 24;
        for (var table = 0; table < 64; table++)
        {
            if ((present >> table & 1) == 0)
                continue;
            _rowCounts[table] = Int32(_firstRow);
            _firstRow += 4;
        }

        var heaps = image[stream + 6]; // which heaps need wide indices
        _textSize = (heaps & 1) != 0 ? 4 : 2;
        int text = _textSize, guid = (heaps & 2) != 0 ? 4 : 2, blob = (heaps & 4) != 0 ? 4 : 2;
        _rowSizes[Module] = 2 + text + 3 * guid;
        _rowSizes[TypeRef] = CodedIndex(2, Module, ModuleRef, AssemblyRef, TypeRef) + 2 * text;
        _rowSizes[TypeDef] = 4 + 2 * text + CodedIndex(2, TypeDef, TypeRef, TypeSpec) + Index(Field) + Index(MethodDef);
        _rowSizes[FieldPtr] = Index(Field);
        _rowSizes[Field] = 2 + text + blob;
        _rowSizes[MethodPtr] = Index(MethodDef);
        _rowSizes[MethodDef] = 8 + text + blob + Index(Param);
    }

    /// <summary>The file offset of each row of a table.</summary>
    public int[] Rows(int table)
    {
        var start = _firstRow;
        for (var before = 0; before < table; before++)
            start += _rowCounts[before] * _rowSizes[before];
        return Enumerable.Range(0, _rowCounts[table]).Select(row => start + row * _rowSizes[table]).ToArray();
    }

    /// <summary>"Type.Method" and the file offset of each method.</summary>
    public IEnumerable<(string Name, int Row)> Methods()
    {
        int[] types = Rows(TypeDef), methods = Rows(MethodDef);
        for (var type = 0; type < types.Length; type++)
        {
            // §22.37: a type's methods go on to those of the next type. MethodList is the last column, and counts from 1.
            var last = type + 1 < types.Length ? FirstMethod(types[type + 1]) : methods.Length;
            for (var method = FirstMethod(types[type]); method < last; method++)
                yield return (Text(types[type] + 4) + "." + Text(methods[method] + 8), methods[method]);
        }
    }

    private int FirstMethod(int type)
    {
        var column = type + _rowSizes[TypeDef] - Index(MethodDef);
        return (Index(MethodDef) == 4 ? Int32(column) : UInt16(column)) - 1;
    }

    private string Text(int column)
    {
        var start = _texts + (_textSize == 4 ? Int32(column) : UInt16(column));
        return Encoding.UTF8.GetString(_image, start, Array.IndexOf(_image, (byte)0, start) - start);
    }

    /// <summary>Bytes of an index into one table: two, until that table is too long.</summary>
    private int Index(int table) => _rowCounts[table] > 0xFFFF ? 4 : 2;

    /// <summary>Bytes of an index into one of several tables, whose low bits say which.</summary>
    private int CodedIndex(int tagBits, params int[] tables) => tables.Max(table => _rowCounts[table]) >= 1 << (16 - tagBits) ? 4 : 2;

    /// <summary>PE header → CLI header → metadata root → the stream of a name.</summary>
    private int Stream(string wanted)
    {
        var pe = Int32(0x3C);
        var optionalHeader = pe + 24;
        var directories = optionalHeader + (UInt16(optionalHeader) == 0x20B ? 112 : 96); // PE32+ or PE32
        var cliHeader = FileOffset(pe, Int32(directories + 14 * 8));
        var root = FileOffset(pe, Int32(cliHeader + 8));

        var header = root + 16 + Int32(root + 12); // skips the version text
        var streams = UInt16(header + 2);
        header += 4;
        for (var i = 0; i < streams; i++)
        {
            var name = Encoding.ASCII.GetString(_image, header + 8, Array.IndexOf(_image, (byte)0, header + 8) - header - 8);
            if (name == wanted)
                return root + Int32(header);
            header += 8 + (name.Length + 4) / 4 * 4; // names end in 1 to 4 zeros
        }
        throw new BadImageFormatException("The assembly has no metadata stream " + wanted + ".");
    }

    private int FileOffset(int pe, int address)
    {
        var firstSection = pe + 24 + UInt16(pe + 20);
        for (var section = firstSection; section < firstSection + 40 * UInt16(pe + 6); section += 40)
        {
            int size = Int32(section + 8), start = Int32(section + 12);
            if (address >= start && address < start + size)
                return address - start + Int32(section + 20);
        }
        throw new BadImageFormatException("The assembly has no section at address " + address + ".");
    }

    private int UInt16(int offset) => BitConverter.ToUInt16(_image, offset);

    private int Int32(int offset) => BitConverter.ToInt32(_image, offset);
}
