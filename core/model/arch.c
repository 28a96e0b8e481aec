/* arch.c - one table row an architecture; see arch.h
 *
 * Keys are those of ggml's docs/gguf.md, "<architecture>.<name>". Whatever would change the
 * arithmetic and is not implemented is refused: a wrong answer is worse than none. */
#include "model/arch.h"
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

typedef enum { NEVER, MAYBE, ALWAYS } presence;

/* Adding one? Also scripts/oracle.py and tests/golden/make_models.py. */
static const struct arch_row {
    const char *name;
    qh_rope_kind rope_kind;
    presence qkv_bias;
    bool has_qk_norm;
} arch_table[] = {
    {"llama", QH_ROPE_INTERLEAVED, MAYBE, false},
    {"qwen2", QH_ROPE_NEOX, ALWAYS, false},
    {"qwen3", QH_ROPE_NEOX, NEVER, true},
};
enum { N_ARCHS = sizeof arch_table / sizeof *arch_table };

/* Numbers that other models put into the same loop; only their neutral value is implemented. */
static const struct {
    const char *name;
    double neutral;
} neutral_keys[] = {
    {"logit_scale", 1},             {"embedding_scale", 1},          {"residual_scale", 1},
    {"attn_logit_softcapping", 0},  {"final_logit_softcapping", 0},  {"attention.clamp_kqv", 0},
    {"attention.max_alibi_bias", 0},
};

const char *qh_arch_names(void) { return "llama, qwen2, qwen3"; }

/* ---- keys of the architecture ---- */

typedef struct {
    const qh_gguf *g;
    const char *arch;
    char key[128];
    qh_err *err;
} source;

static const char *key_of(source *s, const char *name)
{
    snprintf(s->key, sizeof s->key, "%s.%s", s->arch, name);
    return s->key;
}

static bool has(source *s, const char *name) { return qh_gguf_find(s->g, key_of(s, name)) != NULL; }

static qh_status read_int(source *s, const char *name, int min, int max, int *out)
{
    int64_t v = 0;
    qh_status st = qh_gguf_int(s->g, key_of(s, name), min, max, &v, s->err);
    if (!st) *out = (int)v;
    return st;
}

static qh_status read_int_or(source *s, const char *name, int min, int max, int otherwise, int *out)
{
    *out = otherwise;
    return has(s, name) ? read_int(s, name, min, max, out) : QH_OK;
}

static qh_status read_float_or(source *s, const char *name, double min, double max, float otherwise,
                               float *out)
{
    double v = 0;
    *out = otherwise;
    if (!has(s, name)) return QH_OK;
    qh_status st = qh_gguf_float(s->g, key_of(s, name), min, max, &v, s->err);
    if (!st) *out = (float)v;
    return st;
}

static qh_status unsupported(source *s, const char *name, const char *expected)
{
    return qh_fail(s->err, QH_EUNSUPPORTED, "%s: key '%s': not supported by this version, expected %s",
                   qh_gguf_path(s->g), key_of(s, name), expected);
}

/* ---- the parts of a description ---- */

static qh_status read_arch(qh_desc *d, source *s, const struct arch_row **row)
{
    qh_slice name = {0};
    qh_status st = qh_gguf_string(s->g, "general.architecture", &name, s->err);
    if (st) return st;
    for (int i = 0; i < N_ARCHS; i++) {
        if (name.len != strlen(arch_table[i].name) || memcmp(name.data, arch_table[i].name, name.len))
            continue;
        *row = &arch_table[i];
        snprintf(d->arch, sizeof d->arch, "%s", arch_table[i].name);
        s->arch = arch_table[i].name;
        return QH_OK;
    }
    return qh_fail(s->err, QH_EUNSUPPORTED, "%s: architecture '%s' is not supported, expected one of: %s",
                   qh_gguf_path(s->g), qh_gguf_show(name).text, qh_arch_names());
}

static qh_status refuse_foreign(source *s)
{
    int n_experts = 0;
    bool is_causal = true;
    qh_status st = read_int_or(s, "expert_count", 0, INT32_MAX, 0, &n_experts);
    if (!st && n_experts) st = unsupported(s, "expert_count", "a model without experts");
    if (!st && has(s, "attention.causal"))
        st = qh_gguf_bool(s->g, key_of(s, "attention.causal"), &is_causal, s->err);
    if (!st && !is_causal) st = unsupported(s, "attention.causal", "true");
    for (size_t i = 0; i < sizeof neutral_keys / sizeof *neutral_keys && !st; i++) {
        float v;
        const float neutral = (float)neutral_keys[i].neutral;
        st = read_float_or(s, neutral_keys[i].name, -FLT_MAX, FLT_MAX, neutral, &v);
        if (!st && v != neutral) st = unsupported(s, neutral_keys[i].name, neutral ? "1" : "0");
    }
    return st;
}

static qh_status read_shape(qh_desc *d, source *s)
{
    int window = 0;
    qh_status st = read_int(s, "block_count", 1, QH_MAX_LAYERS, &d->n_layers);
    if (!st) st = read_int(s, "embedding_length", 1, 1 << 20, &d->dim);
    if (!st) st = read_int(s, "feed_forward_length", 1, 1 << 22, &d->ffn_dim);
    if (!st) st = read_int(s, "context_length", 1, 1 << 24, &d->n_ctx_train);
    if (!st) st = read_int_or(s, "attention.sliding_window", 0, INT32_MAX, 0, &window);
    /* Up to the length of the window, windowed attention is plain attention. */
    if (!st && window > 0 && window < d->n_ctx_train) d->n_ctx_train = window;
    return st;
}

static qh_status bad_heads(source *s, const char *name, const char *fmt, int is, int limit)
{
    char text[160];
    snprintf(text, sizeof text, fmt, is, limit);
    return qh_fail(s->err, QH_EFORMAT, "%s: key '%s': %s", qh_gguf_path(s->g), key_of(s, name), text);
}

static qh_status read_heads(qh_desc *d, source *s)
{
    int value_dim = 0;
    qh_status st = read_int(s, "attention.head_count", 1, 1 << 14, &d->n_heads);
    if (!st) st = read_int_or(s, "attention.head_count_kv", 1, 1 << 14, d->n_heads, &d->n_kv_heads);
    if (st) return st;
    if (d->n_heads % d->n_kv_heads)
        return bad_heads(s, "attention.head_count_kv", "is %d, expected a divisor of the %d heads",
                         d->n_kv_heads, d->n_heads);
    if (!has(s, "attention.key_length") && d->dim % d->n_heads)
        return bad_heads(s, "attention.head_count", "is %d, expected a divisor of the width %d, or a "
                         "head size of its own", d->n_heads, d->dim);
    st = read_int_or(s, "attention.key_length", 2, QH_MAX_HEAD_DIM, d->dim / d->n_heads, &d->head_dim);
    if (!st) st = read_int_or(s, "attention.value_length", 1, 1 << 20, d->head_dim, &value_dim);
    if (st) return st;
    if (d->head_dim < 2 || d->head_dim > QH_MAX_HEAD_DIM || d->head_dim % 2)
        return bad_heads(s, "attention.key_length", "a head size of %d, expected an even number up to %d",
                         d->head_dim, QH_MAX_HEAD_DIM);
    if (value_dim != d->head_dim)
        return bad_heads(s, "attention.value_length", "is %d, expected the head size %d", value_dim,
                         d->head_dim);
    return read_float_or(s, "attention.scale", 0, FLT_MAX, 1.0f / sqrtf((float)d->head_dim),
                         &d->attn_scale);
}

static bool slice_is(qh_slice s, const char *z) { return s.len == strlen(z) && !memcmp(s.data, z, s.len); }

/* Which scaling the keys ask for. Without a type, a factor means linear; so do older files' keys. */
static qh_status read_scale_kind(qh_desc *d, source *s)
{
    qh_slice type = {"linear", 6};
    const char *factor_key = has(s, "rope.scaling.factor") ? "rope.scaling.factor" : "rope.scale_linear";
    qh_status st = read_float_or(s, factor_key, 0, 1e6, 1, &d->rope_scale_factor);
    if (!st && has(s, "rope.scaling.type"))
        st = qh_gguf_string(s->g, key_of(s, "rope.scaling.type"), &type, s->err);
    if (st) return st;
    if (d->rope_scale_factor == 0) d->rope_scale_factor = 1;
    if (d->rope_scale_factor < 1e-3f)   /* YaRN's magnitude would turn negative */
        return qh_fail(s->err, QH_EFORMAT, "%s: key '%s': is %g, expected 0 (none) or at least 0.001",
                       qh_gguf_path(s->g), key_of(s, factor_key), d->rope_scale_factor);
    const bool is_scaled = d->rope_scale_factor != 1;
    if (slice_is(type, "yarn")) d->rope_scale = QH_ROPE_SCALE_YARN;
    else if (slice_is(type, "linear")) d->rope_scale = is_scaled ? QH_ROPE_SCALE_LINEAR : QH_ROPE_SCALE_NONE;
    else if (slice_is(type, "none")) d->rope_scale = QH_ROPE_SCALE_NONE;
    else
        return qh_fail(s->err, QH_EUNSUPPORTED, "%s: key '%s': is '%s', expected none, linear or yarn",
                       qh_gguf_path(s->g), key_of(s, "rope.scaling.type"), qh_gguf_show(type).text);
    if (d->rope_scale == QH_ROPE_SCALE_NONE) d->rope_scale_factor = 1;
    if (!qh_gguf_find_tensor(s->g, "rope_freqs.weight")) return QH_OK;
    if (d->rope_scale != QH_ROPE_SCALE_NONE)
        return unsupported(s, "rope.scaling.type", "none, as the file has rope_freqs.weight");
    d->rope_scale = QH_ROPE_SCALE_FACTORS;
    return QH_OK;
}

static qh_status read_rope(qh_desc *d, source *s)
{
    qh_status st = read_int_or(s, "rope.dimension_count", 2, d->head_dim, d->head_dim, &d->rope_dim);
    if (!st && d->rope_dim % 2)
        st = bad_heads(s, "rope.dimension_count", "is %d, expected an even number up to %d", d->rope_dim,
                       d->head_dim);
    if (!st) st = read_float_or(s, "rope.freq_base", 2, 1e12, 10000, &d->rope_base);
    if (!st) st = read_scale_kind(d, s);
    if (!st)
        st = read_int_or(s, "rope.scaling.original_context_length", 1, 1 << 24, d->n_ctx_train,
                         &d->rope_ctx_orig);
    if (!st) st = read_float_or(s, "rope.scaling.attn_factor", 1e-3, 1e3, 1, &d->yarn_attn_factor);
    if (!st && d->rope_scale != QH_ROPE_SCALE_YARN && d->yarn_attn_factor != 1)
        st = unsupported(s, "rope.scaling.attn_factor", "1 when rope.scaling.type is not yarn");
    if (!st) st = read_float_or(s, "rope.scaling.yarn_ext_factor", 0, 1e3, 1, &d->yarn_ext_factor);
    if (!st) st = read_float_or(s, "rope.scaling.yarn_beta_fast", 1e-3, 1e6, 32, &d->yarn_beta_fast);
    if (!st) st = read_float_or(s, "rope.scaling.yarn_beta_slow", 1e-3, 1e6, 1, &d->yarn_beta_slow);
    return st;
}

static qh_status read_vocab_size(qh_desc *d, source *s)
{
    static const char tokens[] = "tokenizer.ggml.tokens";
    const qh_gguf_kv *kv = qh_gguf_find(s->g, tokens);
    if (!kv) return read_int(s, "vocab_size", 1, 1 << 24, &d->n_vocab);
    qh_status st = qh_gguf_array(s->g, tokens, QH_GGUF_STRING, 1, 1 << 24, &kv, s->err);
    if (!st) d->n_vocab = (int)kv->n_items;
    return st;
}

static qh_status read_norm_eps(qh_desc *d, source *s)
{
    double eps = 0;
    qh_status st = qh_gguf_float(s->g, key_of(s, "attention.layer_norm_rms_epsilon"), 0, 1, &eps, s->err);
    d->norm_eps = (float)eps;
    return st;
}

qh_status qh_desc_read(qh_desc *d, const qh_gguf *g, qh_err *err)
{
    source s = {.g = g, .err = err};
    const struct arch_row *row = NULL;
    *d = (qh_desc){0};
    qh_status st = read_arch(d, &s, &row);
    if (!st) st = refuse_foreign(&s);
    if (!st) st = read_shape(d, &s);
    if (!st) st = read_heads(d, &s);
    if (!st) st = read_norm_eps(d, &s);
    if (!st) st = read_rope(d, &s);
    if (!st) st = read_vocab_size(d, &s);
    if (st) return st;
    d->rope_kind = row->rope_kind;
    d->has_qk_norm = row->has_qk_norm;
    d->has_qkv_bias = row->qkv_bias == ALWAYS ||
                      (row->qkv_bias == MAYBE && qh_gguf_find_tensor(g, "blk.0.attn_q.bias"));
    d->is_tied = !qh_gguf_find_tensor(g, "output.weight");
    return QH_OK;
}
