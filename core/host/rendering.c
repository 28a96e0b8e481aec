/* rendering.c - see rendering.h */
#include "host/rendering.h"
#include "base/mem.h"
#include "lua/bind/bind.h"
#include "lua/vm/call.h"
#include <stdlib.h>
#include <string.h>

struct qh_renderer {
    qh_vm *vm;
};

qh_status qh_renderer_new(qh_renderer **out, qh_err *err)
{
    qh_renderer *r = qh_new0(qh_renderer);
    qh_vm_opts opts = {.bind = qh_bind_base};
    qh_status st = qh_vm_new(&r->vm, &opts, err);
    if (st) {
        qh_free(r);
        r = NULL;
    }
    *out = r;
    return st;
}

void qh_renderer_free(qh_renderer *r)
{
    if (!r) return;
    qh_vm_free(r->vm);
    qh_free(r);
}

qh_status qh_renderer_render(qh_renderer *r, const json_t *vars, json_t **out, qh_err *err)
{
    *out = NULL;
    char *text = json_dumps(vars, JSON_COMPACT);
    if (!text) return qh_fail(err, QH_EFORMAT, "the variables are no JSON");
    qh_str answer = {0};
    qh_status st = qh_vm_call(r->vm, "qhost.rendering", "render", text, strlen(text), &answer, err);
    free(text);
    if (!st && !(*out = json_loadb(qh_str_z(&answer), answer.len, JSON_ALLOW_NUL, NULL)))
        st = qh_fail(err, QH_ESCRIPT, "the template gave text that is not UTF-8");
    qh_str_deinit(&answer);
    return st;
}

static void set_token(json_t *vars, const char *key, const qh_vocab *v, qh_token id)
{
    if (json_object_get(vars, key)) return;
    qh_slice piece = id == QH_NO_TOKEN ? (qh_slice){"", 0} : qh_vocab_piece(v, id);
    json_object_set_new(vars, key, json_stringn(piece.data, piece.len));
}

qh_status qh_renderer_add_model(json_t *vars, const qh_model *m, qh_err *err)
{
    const qh_vocab *v = qh_tokenizer_vocab(qh_model_tokenizer(m));
    set_token(vars, "bos_token", v, qh_vocab_bos(v));
    set_token(vars, "eos_token", v, qh_vocab_eos(v));
    if (json_object_get(vars, "template")) return QH_OK;
    const char *own = qh_model_chat_template(m);
    if (!own) return qh_fail(err, QH_ENOTFOUND, "%s has no chat template", qh_model_name(m));
    json_object_set_new(vars, "template", json_string(own));
    return QH_OK;
}

static qh_status encode_pairs(const json_t *pairs, const qh_tokenizer *t, qh_tokens *out, qh_err *err)
{
    size_t n = json_array_size(pairs), i;
    qh_segment *segs = qh_try_alloc0(n, sizeof *segs);
    if (!segs) return qh_fail(err, QH_ENOMEM, "%zu segments", n);
    const json_t *pair;
    json_array_foreach(pairs, i, pair) {
        const json_t *text = json_array_get(pair, 0);
        segs[i] = (qh_segment){json_string_value(text), json_string_length(text), json_is_true(json_array_get(pair, 1))};
    }
    qh_status st = qh_tokenizer_encode_segments(t, segs, (int)n, false, out, err);
    qh_free(segs);
    return st;
}

qh_status qh_renderer_encode(qh_renderer *r, const json_t *vars, const qh_tokenizer *t, qh_tokens *out, qh_err *err)
{
    json_t *rendered;
    qh_status st = qh_renderer_render(r, vars, &rendered, err);
    if (!st) st = encode_pairs(json_object_get(rendered, "segments"), t, out, err);
    json_decref(rendered);
    return st;
}
