/* vocabulary.c - see vocabulary.h */
#include "model/vocabulary.h"
#include "base/mem.h"
#include <string.h>

/* Control tokens that end a turn or a text in one model family or another. A file names one end
 * token; chat models are trained to stop at others as well. */
static const char *const stop_texts[] = {
    "<|eot_id|>",      "<|im_end|>",        "<|end|>",   "<end_of_turn>", "<|endoftext|>",
    "<|end_of_text|>", "<|eom_id|>",        "</s>",      "<EOT>",         "_<EOT>",
    "<|return|>",      "<end_of_utterance>", "[EOT]",    "[EOS]",         "<｜end▁of▁sentence｜>",
};
enum { N_STOP_TEXTS = sizeof stop_texts / sizeof *stop_texts };

/* Arrays that the spec borrows; freed when the vocabulary is built. */
typedef struct {
    const qh_gguf *g;
    qh_err *err;
    qh_vocab_spec spec;
    qh_slice *pieces, *merges;
    float *scores;
    int32_t *types;
    char *pretokenizer;
    qh_token stops[N_STOP_TEXTS + 1];
} source;

static bool slice_is(qh_slice s, const char *z) { return s.len == strlen(z) && !memcmp(s.data, z, s.len); }

static bool has(const source *s, const char *key) { return qh_gguf_find(s->g, key) != NULL; }

static qh_status no_memory(source *s, const char *key)
{
    return qh_fail(s->err, QH_ENOMEM, "%s: key '%s': no memory for its items", qh_gguf_path(s->g), key);
}

static qh_status read_kind(source *s)
{
    static const char key[] = "tokenizer.ggml.model";
    qh_slice kind = {0};
    qh_status st = qh_gguf_string(s->g, key, &kind, s->err);
    if (st) return st;
    if (slice_is(kind, "gpt2")) s->spec.kind = QH_TOKENIZER_BPE;
    else if (slice_is(kind, "llama")) s->spec.kind = QH_TOKENIZER_SPM;
    else
        return qh_fail(s->err, QH_EUNSUPPORTED, "%s: key '%s': is '%s', expected gpt2 (byte-level BPE) or "
                       "llama (SentencePiece BPE)", qh_gguf_path(s->g), key, qh_gguf_show(kind).text);
    return QH_OK;
}

static qh_status read_strings(source *s, const char *key, int64_t min, int64_t max, qh_slice **out, int *n)
{
    const qh_gguf_kv *kv = NULL;
    qh_status st = qh_gguf_array(s->g, key, QH_GGUF_STRING, min, max, &kv, s->err);
    if (st) return st;
    qh_slice *slices = *out = qh_try_alloc0((size_t)kv->n_items, sizeof *slices);
    if (!slices) return no_memory(s, key);
    qh_gguf_item item;
    for (qh_gguf_iter it = qh_gguf_items(kv); qh_gguf_next(&it, &item);) *slices++ = item.v.s;
    *n = (int)kv->n_items;
    return QH_OK;
}

static qh_status read_types(source *s)
{
    static const char key[] = "tokenizer.ggml.token_type";
    const qh_gguf_kv *kv = NULL;
    if (!has(s, key)) return QH_OK;
    const int n = s->spec.n_tokens;
    qh_status st = qh_gguf_array(s->g, key, QH_GGUF_I32, n, n, &kv, s->err);
    if (st) return st;
    int32_t *types = s->types = qh_try_alloc0((size_t)n, sizeof *types);
    if (!types) return no_memory(s, key);
    memcpy(types, kv->data, (size_t)n * sizeof *types);
    s->spec.types = types;
    return QH_OK;
}

static qh_status read_scores(source *s)
{
    static const char key[] = "tokenizer.ggml.scores";
    const qh_gguf_kv *kv = NULL;
    if (s->spec.kind != QH_TOKENIZER_SPM) return QH_OK;
    const int n = s->spec.n_tokens;
    qh_status st = qh_gguf_array(s->g, key, QH_GGUF_F32, n, n, &kv, s->err);
    if (st) return st;
    float *scores = s->scores = qh_try_alloc0((size_t)n, sizeof *scores);
    if (!scores) return no_memory(s, key);
    memcpy(scores, kv->data, (size_t)n * sizeof *scores);
    s->spec.scores = scores;
    return QH_OK;
}

static qh_status read_pretokenizer(source *s)
{
    static const char key[] = "tokenizer.ggml.pre";
    qh_slice name = {0};
    if (s->spec.kind != QH_TOKENIZER_BPE || !has(s, key)) return QH_OK;
    qh_status st = qh_gguf_string(s->g, key, &name, s->err);
    if (st) return st;
    for (size_t i = 0; i < name.len; i++)
        if (name.data[i] <= 0x20 || name.data[i] > 0x7e)
            return qh_fail(s->err, QH_EFORMAT, "%s: key '%s': byte 0x%02x, expected a name in printable ASCII",
                           qh_gguf_path(s->g), key, (unsigned char)name.data[i]);
    s->spec.pretokenizer = s->pretokenizer = qh_strndup(name.data, name.len);
    return QH_OK;
}

static qh_status read_id(source *s, const char *key, qh_token otherwise, qh_token *out)
{
    int64_t id = otherwise < s->spec.n_tokens ? otherwise : QH_NO_TOKEN;
    qh_status st = has(s, key) ? qh_gguf_int(s->g, key, 0, s->spec.n_tokens - 1, &id, s->err) : QH_OK;
    *out = (qh_token)id;
    return st;
}

static qh_status read_ids(source *s)
{
    qh_vocab_spec *v = &s->spec;
    const bool spm = v->kind == QH_TOKENIZER_SPM;
    qh_status st = read_id(s, "tokenizer.ggml.bos_token_id", spm ? 1 : QH_NO_TOKEN, &v->bos);
    if (!st) st = read_id(s, "tokenizer.ggml.eos_token_id", spm ? 2 : QH_NO_TOKEN, &v->eos);
    if (!st) st = read_id(s, "tokenizer.ggml.unknown_token_id", spm ? 0 : QH_NO_TOKEN, &v->unk);
    if (!st) st = read_id(s, "tokenizer.ggml.eot_token_id", QH_NO_TOKEN, &v->eot);
    if (!st) st = read_id(s, "tokenizer.ggml.padding_token_id", QH_NO_TOKEN, &v->pad);
    return st;
}

static qh_status read_flag(source *s, const char *key, bool otherwise, bool *out)
{
    *out = otherwise;
    return has(s, key) ? qh_gguf_bool(s->g, key, out, s->err) : QH_OK;
}

/* Llama 3 files leave add_bos_token out and mean true. */
static bool adds_bos_by_default(const qh_vocab_spec *v)
{
    static const char *const names[] = {"llama-bpe", "llama3", "llama-v3"};
    if (v->kind == QH_TOKENIZER_SPM) return v->bos != QH_NO_TOKEN;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (v->pretokenizer && !strcmp(v->pretokenizer, names[i])) return v->bos != QH_NO_TOKEN;
    return false;
}

static qh_status read_flags(source *s)
{
    qh_vocab_spec *v = &s->spec;
    const bool spm = v->kind == QH_TOKENIZER_SPM;
    qh_status st = read_flag(s, "tokenizer.ggml.add_bos_token", adds_bos_by_default(v), &v->add_bos);
    if (!st) st = read_flag(s, "tokenizer.ggml.add_eos_token", false, &v->add_eos);
    if (!st) st = read_flag(s, "tokenizer.ggml.add_space_prefix", spm, &v->add_space_prefix);
    return st;
}

static bool is_stop_text(qh_slice piece)
{
    for (int i = 0; i < N_STOP_TEXTS; i++)
        if (slice_is(piece, stop_texts[i])) return true;
    return false;
}

/* Control tokens only: the same text typed by a user is ordinary. */
static qh_status read_stops(source *s)
{
    qh_vocab_spec *v = &s->spec;
    qh_token eom = QH_NO_TOKEN;
    qh_status st = read_id(s, "tokenizer.ggml.eom_token_id", QH_NO_TOKEN, &eom);
    if (eom != QH_NO_TOKEN) s->stops[v->n_stops++] = eom;
    for (int i = 0; i < v->n_tokens && v->types && v->n_stops < N_STOP_TEXTS + 1; i++)
        if (v->types[i] == QH_TOKEN_CONTROL && is_stop_text(v->pieces[i])) s->stops[v->n_stops++] = i;
    v->stops = s->stops;
    return st;
}

static qh_status read_spec(source *s)
{
    qh_vocab_spec *v = &s->spec;
    qh_status st = read_kind(s);
    if (!st) st = read_strings(s, "tokenizer.ggml.tokens", 1, QH_MAX_VOCAB, &s->pieces, &v->n_tokens);
    v->pieces = s->pieces;
    if (!st) st = read_types(s);
    if (!st) st = read_scores(s);
    if (!st) st = read_pretokenizer(s);
    if (!st && v->kind == QH_TOKENIZER_BPE)
        st = read_strings(s, "tokenizer.ggml.merges", 0, QH_MAX_MERGES, &s->merges, &v->n_merges);
    v->merges = s->merges;
    if (!st) st = read_ids(s);
    if (!st) st = read_flags(s);
    if (!st) st = read_stops(s);
    return st;
}

qh_status qh_vocabulary_read(qh_vocab **out, const qh_gguf *g, qh_err *err)
{
    source s = {.g = g, .err = err};
    *out = NULL;
    qh_status st = read_spec(&s);
    if (!st) {
        st = qh_vocab_new(out, &s.spec, err);
        if (st) qh_err_prefix(err, "%s", qh_gguf_path(g));
    }
    qh_free(s.pieces);
    qh_free(s.merges);
    qh_free(s.scores);
    qh_free(s.types);
    qh_free(s.pretokenizer);
    return st;
}
