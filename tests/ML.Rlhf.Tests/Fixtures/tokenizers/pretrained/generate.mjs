// Makes the tokenizers and the expected numbers of this folder. Needs Node.js 20, the packages in the README, and SentencePiece's
// command line tools. Run it in an empty folder: node generate.mjs FIXTURES, where FIXTURES holds corpus.txt, encode.json and bpe/.
import { createRequire } from 'node:module';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
const { Tokenizer } = createRequire(import.meta.url)('@anush008/tokenizers');

const fixtures = process.argv[2];
const golden = JSON.parse(readFileSync(join(fixtures, 'bpe/tokenizer.json')));
const corpus = readFileSync(join(fixtures, 'corpus.txt'), 'utf8');

// ---- Texts ----
let state = 42;
const random = n => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) % 65521 % n;
const parts = ['a', 'the', ' the', "don't", "WE'LL", "he'ſ", "I'ſ", "'K", ' ', '  ', '   ', '\n', '\n\n', '\r\n', '\t', '\u00a0', '\u3000', '\u2028',
    '0', ' 42', '12345', '٣', '½', '²', '!', ' ...', ',,', "'", '"', 'é', 'e\u0301', 'ß', 'İ', 'ﬁ', 'ÅÅ', 'q\u0323\u0307', 'שלום', 'مرحبا', '日本語', '한국어',
    '한', 'ไทย', 'हिन्दी', '🙂', '👩‍🚀', '🇸🇪', '𝔘', ' 𠀀', '𝟙𝟚', '\0', '\u001f', '\u200b', '\ufeff', '\ufffd', '<|end', '|>', 'Ġ', '▁', '▁▁a', '<0x41>',
    'ship', ' harbour', 'fog', 'ing', '_', 'word_', '##ing', '[', 'X', 'ÀÉ', 'ǅ', 'Ω', '\u0345', '𐐀', '𞤀', '①', 'Ⅷ', '\ue000', '\u0378', '\u00ad', 'ΑΣ', '𠀀x', '𫤠', '𪜀', '~', '`', '$', '€', '™'];
const texts = [...new Set([
    ...JSON.parse(readFileSync(join(fixtures, 'encode.json'))).cases.map(c => c.text).filter(t => t.length < 120),
    ...Array.from({ length: 100 }, () => Array.from({ length: 1 + random(9) }, () => parts[random(parts.length)]).join('')),
])];

async function expectations(name, tokenizer, specials) {
    // Special tokens that nobody can write: what the library's option split_special_tokens does to the text.
    const plain = { ...tokenizer, added_tokens: tokenizer.added_tokens.map((t, i) => t.special ? { ...t, content: `\u{F0000}${i}` } : t), post_processor: null };
    const [full, text_only] = [tokenizer, plain].map(t => Tokenizer.fromString(JSON.stringify(t)));
    const cases = [];
    const mixed = Array.from({ length: 40 }, () => Array.from({ length: 1 + random(5) }, () =>
        random(2) ? parts[random(parts.length)] : specials[random(specials.length)]).join(''));
    for (const text of [...texts, ...specials, ...new Set(mixed)]) {
        const encoded = await full.encode(text, null, { addSpecialTokens: false });
        const whole = await full.encode(text, null, { addSpecialTokens: true });
        const ids = encoded.getIds();
        cases.push({
            text, ids, offsets: encoded.getOffsets().flat(), with_template: whole.getIds(), text_only_ids: (await text_only.encode(text, null, { addSpecialTokens: false })).getIds(),
            decoded: await full.decode(ids, false), decoded_skip_special: await full.decode(ids, true),
        });
    }
    const decode_only = [];
    const size = full.getVocabSize(true);
    for (let i = 0; i < 40; i++) {
        const ids = Array.from({ length: 1 + random(7) }, () => random(size));
        decode_only.push({ ids, decoded: await full.decode(ids, false), decoded_skip_special: await full.decode(ids, true) });
    }
    write(name, tokenizer, { cases, decode_only });
}

function write(name, tokenizer, expected) {
    mkdirSync(name, { recursive: true });
    if (tokenizer)
        writeFileSync(join(name, 'tokenizer.json'), JSON.stringify(tokenizer));
    const lines = (key) => `"${key}":[\n${expected[key].map(c => JSON.stringify(c)).join(',\n')}\n]`;
    writeFileSync(join(name, 'expected.json'), `{${Object.keys(expected).map(lines).join(',\n')}}\n`);
}

const added = (content, id, more = {}) =>
    ({ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true, ...more });
const template = (bos, id) => ({ type: 'TemplateProcessing', single: [{ SpecialToken: { id: bos, type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
    pair: [{ Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }], special_tokens: { [bos]: { id: bos, ids: [id], tokens: [bos] } } });
const bytes = (more = {}) => ({ type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true, ...more });
const unspecial = Object.fromEntries(Object.entries(golden.model.vocab).filter(([t]) => !t.startsWith('<|')).map(([t, id]) => [t, id - 2]));

// ---- Byte-level BPE in the shapes of Llama 3 and Qwen 2; the vocabulary is that of bpe/ ----
{
    const vocab = { ...unspecial };
    for (const word of ['Ġlighthouse', 'ĠHarbour', '123', 'ĊĊ', '...', 'æĹ¥æľ¬èªŀ']) vocab[word] ??= Object.keys(vocab).length; // no merge leads there
    const n = Object.keys(vocab).length;
    await expectations('llama3', {
        version: '1.0', truncation: null, padding: null,
        added_tokens: ['<|begin_of_text|>', '<|end_of_text|>', '<|start_header_id|>', '<|end_header_id|>', '<|eot_id|>'].map((t, i) => added(t, n + i)),
        normalizer: null,
        pre_tokenizer: { type: 'Sequence', pretokenizers: [
            { type: 'Split', pattern: { Regex: "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+" },
                behavior: 'Isolated', invert: false },
            bytes({ use_regex: false })] },
        post_processor: { type: 'Sequence', processors: [bytes({ trim_offsets: false }), template('<|begin_of_text|>', n)] },
        decoder: bytes(), model: { ...golden.model, ignore_merges: true, vocab },
    }, ['<|begin_of_text|>', '<|eot_id|>', '<|start_header_id|>user<|end_header_id|>\n\n']);
}
{
    const n = Object.keys(unspecial).length;
    await expectations('qwen2', {
        version: '1.0', truncation: null, padding: null,
        added_tokens: [added('<|endoftext|>', n), added('<|im_start|>', n + 1), added('<|im_end|>', n + 2), added('<think>', n + 3, { special: false }),
            added('<think>ing', n + 4, { special: false, normalized: true }), added('cafe\u0301', n + 5, { special: false, normalized: true }),
            added('mask', n + 6, { lstrip: true, rstrip: true, single_word: true, special: false })],
        normalizer: { type: 'NFC' },
        pre_tokenizer: { type: 'Sequence', pretokenizers: [
            { type: 'Split', pattern: { Regex: "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+" },
                behavior: 'Isolated', invert: false },
            bytes({ use_regex: false })] },
        post_processor: bytes({ trim_offsets: false }), decoder: bytes(), model: { ...golden.model, vocab: unspecial },
    }, ['<|im_start|>', '<|im_end|>', '<think>', '</think>', '<think>ing', 'café', 'cafe\u0301', ' mask ', 'mask', 'maskx', '_mask', '\nmask\n\n', '<|endoftext|>']);
}
{
    const n = Object.keys(unspecial).length;
    await expectations('digits', { // as StarCoder has it, with GPT-2's prefix space
        version: '1.0', truncation: null, padding: null, added_tokens: [added('<|endoftext|>', n)], normalizer: null,
        pre_tokenizer: { type: 'Sequence', pretokenizers: [{ type: 'Digits', individual_digits: true }, bytes()] },
        post_processor: bytes({ trim_offsets: false }), decoder: bytes(), model: { ...golden.model, vocab: unspecial },
    }, ['<|endoftext|>', ' <|endoftext|> ']);
    await expectations('prefix-space', {
        version: '1.0', truncation: null, padding: null, added_tokens: [added('<s>', n), added('</s>', n + 1), added('<mask>', n + 2, { lstrip: true })],
        normalizer: null, pre_tokenizer: bytes({ add_prefix_space: true }),
        post_processor: { type: 'RobertaProcessing', sep: ['</s>', n + 1], cls: ['<s>', n], trim_offsets: false, add_prefix_space: true },
        decoder: bytes(), model: { ...golden.model, vocab: unspecial },
    }, ['<s>', '</s>', 'x <mask>', '<mask>  y']);
}

// ---- SentencePiece models, and BPE with byte fallback in the shapes of Llama 2, Mistral and Gemma made of one ----
{
    const name = 'sentencepiece-bpe';
    mkdirSync(name, { recursive: true });
    execFileSync('spm_train', [`--input=${join(fixtures, 'corpus.txt')}`, `--model_prefix=${name}/tokenizer`, '--model_type=bpe', '--vocab_size=700',
        '--character_coverage=0.99', '--byte_fallback=true', '--normalization_rule_name=identity', '--remove_extra_whitespaces=false',
        '--allow_whitespace_only_pieces=true', '--split_digits=true', '--num_threads=1'], { stdio: 'ignore' });
    const spm = (tool, format, input) => execFileSync(tool, [`--model=${name}/tokenizer.model`, format], { input: input + '\n' }).toString().replace(/\n$/, '');
    const cases = [];
    for (const text of texts.filter(t => !/[\n\r\0]/.test(t))) {
        const ids = spm('spm_encode', '--output_format=id', text).split(' ').filter(id => id).map(Number);
        cases.push({ text, ids, decoded: ids.length ? spm('spm_decode', '--input_format=id', ids.join(' ')) : '' });
    }
    write(name, null, { cases });
    await llama2Shapes(name);
    rmSync(`${name}/tokenizer.vocab`);
}

async function llama2Shapes(name) {
    const pieces = readFileSync(`${name}/tokenizer.vocab`, 'utf8').trimEnd().split('\n').map(line => line.split('\t'));
    const vocab = Object.fromEntries(pieces.map(([piece], id) => [piece, id]));
    // Every way to put a piece together from two others, the piece with the highest score first; as transformers converts such models.
    const merges = [];
    for (const [piece, score] of pieces.filter(([p]) => !/^<.*>$/.test(p))) {
        const local = [], letters = [...piece];
        for (let i = 1; i < letters.length; i++) {
            const [left, right] = [letters.slice(0, i).join(''), letters.slice(i).join('')];
            if (left in vocab && right in vocab) local.push([left, right, +score, i, letters.length - i]);
        }
        merges.push(...local.sort((a, b) => vocab[a[0]] - vocab[b[0]] || vocab[a[1]] - vocab[b[1]]));
    }
    merges.sort((a, b) => b[2] - a[2] || b[3] - a[3] || b[4] - a[4]);
    const shape = {
        version: '1.0', truncation: null, padding: null, added_tokens: ['<unk>', '<s>', '</s>'].map((t, id) => added(t, id)),
        normalizer: { type: 'Sequence', normalizers: [{ type: 'Prepend', prepend: '▁' }, { type: 'Replace', pattern: { String: ' ' }, content: '▁' }] },
        pre_tokenizer: null, post_processor: template('<s>', 1),
        decoder: { type: 'Sequence', decoders: [{ type: 'Replace', pattern: { String: '▁' }, content: ' ' }, { type: 'ByteFallback' }, { type: 'Fuse' },
            { type: 'Strip', content: ' ', start: 1, stop: 0 }] },
        model: { type: 'BPE', dropout: null, unk_token: '<unk>', continuing_subword_prefix: null, end_of_word_suffix: null, fuse_unk: true,
            byte_fallback: true, ignore_merges: false, vocab, merges: merges.map(m => m[0] + ' ' + m[1]) },
    };
    const specials = ['<s>', '</s>', ' </s> ', '<unk>', '[INST] hi [/INST]'];
    await expectations('llama2', shape, specials);
    await expectations('mistral', { ...shape, normalizer: null,
        pre_tokenizer: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'first', split: false } }, specials);
    await expectations('metaspace', { ...shape, normalizer: { type: 'NFC' },
        pre_tokenizer: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always', split: true },
        decoder: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always', split: true },
        model: { ...shape.model, byte_fallback: false } }, specials);
    await expectations('gemma', { ...shape, normalizer: { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
        pre_tokenizer: { type: 'Split', pattern: { String: ' ' }, behavior: 'MergedWithPrevious', invert: false },
        decoder: { type: 'Sequence', decoders: shape.decoder.decoders.slice(0, 3) },
        model: { ...shape.model, fuse_unk: false, byte_fallback: false, merges: merges.map(m => m.slice(0, 2)) } }, specials);
}

// ---- WordPiece in the shape of BERT, with and without case ----
{
    const words = {};
    for (const word of corpus.toLowerCase().match(/[\p{L}\p{N}]+/gu)) words[word] = (words[word] ?? 0) + 1;
    const frequent = Object.keys(words).filter(w => words[w] > 2 && w.length > 1).sort();
    const letters = [...new Set([...'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789éßА日本語한αω', ...'.,!?\'"-_[]()<>|#/:;$€½'])];
    const tokens = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', ...letters, ...frequent, ...letters.map(l => '##' + l), '##ing', '##ed', '##s', '##tion', '##er', "n't"];
    const vocab = Object.fromEntries([...new Set(tokens)].map((t, id) => [t, id]));
    for (const [name, lowercase] of [['bert', true], ['bert-cased', false]]) {
        await expectations(name, {
            version: '1.0', truncation: null, padding: null, added_tokens: tokens.slice(0, 5).map((t, id) => added(t, id)),
            normalizer: { type: 'BertNormalizer', clean_text: true, handle_chinese_chars: true, strip_accents: null, lowercase },
            pre_tokenizer: { type: 'BertPreTokenizer' },
            post_processor: { type: 'TemplateProcessing', single: [{ SpecialToken: { id: '[CLS]', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }, { SpecialToken: { id: '[SEP]', type_id: 0 } }],
                pair: [{ SpecialToken: { id: '[CLS]', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }, { SpecialToken: { id: '[SEP]', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }, { SpecialToken: { id: '[SEP]', type_id: 1 } }],
                special_tokens: { '[CLS]': { id: '[CLS]', ids: [2], tokens: ['[CLS]'] }, '[SEP]': { id: '[SEP]', ids: [3], tokens: ['[SEP]'] } } },
            decoder: { type: 'WordPiece', prefix: '##', cleanup: lowercase },
            model: { type: 'WordPiece', unk_token: '[UNK]', continuing_subword_prefix: '##', max_input_chars_per_word: lowercase ? 100 : 12, vocab },
        }, ['[CLS]', '[MASK]', 'x[SEP]', ' [MASK] ', '[UNK]']);
    }
}
