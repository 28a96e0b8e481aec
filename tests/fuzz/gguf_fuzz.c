/* gguf_fuzz.c - libFuzzer target: a model file, whatever its bytes.
 *
 * What is checked: nothing is read outside the input, each failure has a message that begins with the
 * file, and everything that a parsed file, its description, weights and vocabulary hand out lies inside
 * the input and has the promised shape. */
#include "model/vocabulary.h"
#include "model/weights.h"
#include "model/rope.h"
#include "model/quant.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const unsigned char *begin, *end;

#define check(is_true) check_at((is_true), #is_true, __LINE__)
static void check_at(bool is_true, const char *what, int line)
{
    if (is_true) return;
    fprintf(stderr, "gguf_fuzz.c:%d: not so: %s\n", line, what);
    abort();
}

static void check_inside(const void *p, uint64_t len)
{
    const unsigned char *q = p;
    check(q >= begin && q <= end && len <= (uint64_t)(end - q));
}

static void check_refusal(qh_status st, const qh_err *err)
{
    check(st == err->status);
    check(!st || !strncmp(err->msg, "f.gguf: ", 8));
}

static void check_items(const qh_gguf_kv *kv)
{
    int64_t n = 0;
    qh_gguf_item item;
    for (qh_gguf_iter it = qh_gguf_items(kv); qh_gguf_next(&it, &item); n++) {
        if (item.type == QH_GGUF_STRING) check_inside(item.v.s.data, item.v.s.len);
        if (item.type == QH_GGUF_ARRAY) check_items(&item.v.array);
        check_inside(it.next, 0);
    }
    check(n == kv->n_items);
}

static void check_directory(const qh_gguf *g)
{
    for (int i = 0; i < qh_gguf_n_keys(g); i++) {
        const qh_gguf_kv *kv = qh_gguf_kv_at(g, i);
        check(qh_gguf_find(g, kv->key) == kv);
        check_items(kv);
    }
    for (int i = 0; i < qh_gguf_n_tensors(g); i++) {
        const qh_gguf_tensor *t = qh_gguf_tensor_at(g, i);
        check(qh_gguf_find_tensor(g, t->name) == t);
        check_inside(t->data, t->len_bytes);
        check(t->len_bytes / qh_dtype_row_bytes(t->dtype, t->dims[0]) ==
              (uint64_t)(t->dims[1] * t->dims[2] * t->dims[3]));
        float values[256];
        qh_dequantize(t->dtype, values, t->data, qh_dtype_block_len(t->dtype));
    }
}

static void check_tensor(const qh_tensor *t, int64_t n_rows, int64_t dim, bool is_wanted)
{
    check(is_wanted == (t->data != NULL));
    if (!is_wanted) return;
    check(t->n_rows == n_rows && t->dim == dim);
    check_inside(t->data, (uint64_t)n_rows * qh_dtype_row_bytes(t->dtype, dim));
}

static void check_model(const qh_desc *d, const qh_weights *w)
{
    double freq[QH_MAX_HEAD_DIM / 2];
    float factors[QH_MAX_HEAD_DIM / 2];
    check(d->head_dim <= QH_MAX_HEAD_DIM && d->rope_dim <= d->head_dim && d->rope_dim % 2 == 0);
    check(d->n_heads % d->n_kv_heads == 0 && d->n_layers <= QH_MAX_LAYERS);
    check_tensor(&w->embed, d->n_vocab, d->dim, true);
    check_tensor(&w->head, d->n_vocab, d->dim, true);
    check_tensor(&w->rope_factors, 1, d->rope_dim / 2, d->rope_scale == QH_ROPE_SCALE_FACTORS);
    if (w->rope_factors.data)
        qh_dequantize(w->rope_factors.dtype, factors, w->rope_factors.data, w->rope_factors.dim);
    check(qh_rope_freqs(d, factors, freq) > 0);
    for (int i = 0; i < d->rope_dim / 2; i++) check(freq[i] >= 0);
    for (int i = 0; i < d->n_layers; i++) {
        const qh_layer_weights *l = &w->layers[i];
        check_tensor(&l->wq, qh_desc_q_dim(d), d->dim, true);
        check_tensor(&l->wo, d->dim, qh_desc_q_dim(d), true);
        check_tensor(&l->bv, 1, qh_desc_kv_dim(d), d->has_qkv_bias);
        check_tensor(&l->k_norm, 1, d->head_dim, d->has_qk_norm);
        check_tensor(&l->w_down, d->dim, d->ffn_dim, true);
    }
}

static void read_model(const qh_gguf *g)
{
    qh_desc d;
    qh_weights w = {0};
    qh_err err = {0};
    qh_status st = qh_desc_read(&d, g, &err);
    if (!st) st = qh_weights_bind(&w, &d, g, &err);
    check_refusal(st, &err);
    if (!st) check_model(&d, &w);
    qh_weights_deinit(&w);
}

static void read_vocabulary(const qh_gguf *g)
{
    qh_vocab *v;
    qh_err err = {0};
    qh_status st = qh_vocabulary_read(&v, g, &err);
    check_refusal(st, &err);
    check(!st == (v != NULL));
    for (int i = 0; v && i < qh_vocab_len(v); i++) check(qh_vocab_piece(v, i).len < 1 << 24);
    qh_vocab_free(v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    qh_gguf *g;
    qh_err err = {0};
    begin = data;
    end = data + len;
    check_refusal(qh_gguf_open_bytes(&g, "f.gguf", data, len, &err), &err);
    if (!g) return 0;
    check_directory(g);
    read_model(g);
    read_vocabulary(g);
    qh_gguf_close(g);
    return 0;
}
