/* model.c - see model.h */
#include "model/model.h"
#include "base/hash.h"
#include "base/mem.h"
#include "model/vocabulary.h"
#include "text/utf8.h"
#include <string.h>

enum { MAX_NAME_BYTES = 128, MAX_TEMPLATE_BYTES = 1 << 20, SAMPLE_BYTES = 16 };

struct qh_model {
    qh_gguf *gguf;
    bool has_weights;                   /* desc and weights are filled in */
    qh_desc desc;
    qh_weights weights;
    qh_vocab *vocab;
    qh_tokenizer *tokenizer;
    char *chat_template;                /* NULL: none */
    char *name;
    uint64_t weight_bytes, id;
};

static bool is_fit_to_show(qh_slice s)
{
    if (s.len == 0 || s.len > MAX_NAME_BYTES) return false;
    for (size_t i = 0; i < s.len;) {
        const int n = qh_utf8_len(s.data + i, s.len - i);
        if (n == 0 || (unsigned char)s.data[i] < 0x20 || s.data[i] == 0x7f) return false;
        i += (size_t)n;
    }
    return true;
}

static char *stem_of(const char *path)
{
    const char *slash = strrchr(path, '/'), *leaf = slash ? slash + 1 : path;
    const size_t len = strlen(leaf);
    return qh_strndup(leaf, len > 5 && !strcmp(leaf + len - 5, ".gguf") ? len - 5 : len);
}

static qh_status read_name(qh_model *m, qh_err *err)
{
    static const char key[] = "general.name";
    qh_slice s = {0};
    qh_status st = qh_gguf_find(m->gguf, key) ? qh_gguf_string(m->gguf, key, &s, err) : QH_OK;
    if (!st) m->name = is_fit_to_show(s) ? qh_strndup(s.data, s.len) : stem_of(qh_gguf_path(m->gguf));
    return st;
}

static qh_status read_template(qh_model *m, qh_err *err)
{
    static const char key[] = "tokenizer.chat_template";
    qh_slice s = {0};
    if (!qh_gguf_find(m->gguf, key)) return QH_OK;
    qh_status st = qh_gguf_string(m->gguf, key, &s, err);
    if (st) return st;
    if (s.len > MAX_TEMPLATE_BYTES)
        return qh_fail(err, QH_ELIMIT, "%s: key '%s': %zu bytes, expected at most %d", qh_gguf_path(m->gguf),
                       key, s.len, MAX_TEMPLATE_BYTES);
    if (memchr(s.data, 0, s.len))
        return qh_fail(err, QH_EFORMAT, "%s: key '%s': holds a zero byte, expected text",
                       qh_gguf_path(m->gguf), key);
    m->chat_template = qh_strndup(s.data, s.len);
    return QH_OK;
}

static qh_status read_text(qh_model *m, qh_err *err)
{
    qh_status st = qh_vocabulary_read(&m->vocab, m->gguf, err);
    if (st) return st;
    st = qh_tokenizer_new(&m->tokenizer, m->vocab, err);
    if (st) qh_err_prefix(err, "%s", qh_gguf_path(m->gguf));
    if (!st) st = read_template(m, err);
    return st;
}

static qh_status read_weights(qh_model *m, qh_err *err)
{
    qh_status st = qh_desc_read(&m->desc, m->gguf, err);
    if (!st) st = qh_weights_bind(&m->weights, &m->desc, m->gguf, err);
    m->has_weights = !st;
    return st;
}

static uint64_t hash_of(const qh_gguf *g)
{
    const qh_slice meta = qh_gguf_meta_bytes(g);
    uint64_t h = qh_hash_bytes(meta.data, meta.len, qh_gguf_file_bytes(g));
    for (int i = 0; i < qh_gguf_n_tensors(g); i++) {
        const qh_gguf_tensor *t = qh_gguf_tensor_at(g, i);
        const size_t n = t->len_bytes < SAMPLE_BYTES ? t->len_bytes : SAMPLE_BYTES;
        h = qh_hash_bytes(t->data + (t->len_bytes - n) / 2, n, h);
    }
    return h;
}

static void measure(qh_model *m)
{
    for (int i = 0; i < qh_gguf_n_tensors(m->gguf); i++)
        m->weight_bytes += qh_gguf_tensor_at(m->gguf, i)->len_bytes;
    m->id = hash_of(m->gguf);
}

static qh_status open_model(qh_model **out, const char *path, bool with_weights, qh_err *err)
{
    *out = NULL;
    qh_model *m = qh_new0(qh_model);
    qh_status st = qh_gguf_open(&m->gguf, path, err);
    if (!st && with_weights) st = read_weights(m, err);
    if (!st) st = read_text(m, err);
    if (!st) st = read_name(m, err);
    if (st) {
        qh_model_close(m);
        return st;
    }
    measure(m);
    *out = m;
    return QH_OK;
}

qh_status qh_model_open(qh_model **out, const char *path, qh_err *err)
{
    return open_model(out, path, true, err);
}

qh_status qh_model_open_text(qh_model **out, const char *path, qh_err *err)
{
    return open_model(out, path, false, err);
}

void qh_model_close(qh_model *m)
{
    if (!m) return;
    qh_tokenizer_free(m->tokenizer);
    qh_vocab_free(m->vocab);
    qh_weights_deinit(&m->weights);
    qh_gguf_close(m->gguf);
    qh_free(m->chat_template);
    qh_free(m->name);
    qh_free(m);
}

const qh_desc *qh_model_desc(const qh_model *m) { return m->has_weights ? &m->desc : NULL; }
const qh_weights *qh_model_weights(const qh_model *m) { return m->has_weights ? &m->weights : NULL; }
const qh_tokenizer *qh_model_tokenizer(const qh_model *m) { return m->tokenizer; }
const qh_vocab *qh_model_vocab(const qh_model *m) { return m->vocab; }
const qh_gguf *qh_model_gguf(const qh_model *m) { return m->gguf; }
const char *qh_model_chat_template(const qh_model *m) { return m->chat_template; }
const char *qh_model_name(const qh_model *m) { return m->name; }
const char *qh_model_path(const qh_model *m) { return qh_gguf_path(m->gguf); }
uint64_t qh_model_weight_bytes(const qh_model *m) { return m->weight_bytes; }
uint64_t qh_model_id(const qh_model *m) { return m->id; }
