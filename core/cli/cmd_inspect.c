/* cmd_inspect.c - qhost inspect: what a GGUF file holds, as JSON Lines */
#include "base/mem.h"
#include "cli/cmd.h"
#include "cli/opts.h"
#include "host/models.h"
#include "model/gguf.h"
#include "model/model.h"
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

static void print_line(json_t *v)
{
    json_dumpf(v, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
    putchar('\n');
    json_decref(v);
}

/* Metadata strings may hold any bytes: those that are not UTF-8 are shown as U+FFFD. */
static json_t *json_text(qh_slice s)
{
    json_t *v = json_stringn(s.data, s.len);
    if (v) return v;
    qh_str t = {0};
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.data[i];
        if (c < 0x80) qh_str_append_c(&t, (char)c);
        else qh_str_append_z(&t, "\xEF\xBF\xBD");
    }
    v = json_stringn(qh_str_z(&t), t.len);
    qh_str_deinit(&t);
    return v;
}

static json_t *json_items(const qh_gguf_kv *kv, int max_items);

static json_t *json_item(const qh_gguf_item *it, int max_items)
{
    switch (it->type) {
    case QH_GGUF_U8:
    case QH_GGUF_U16:
    case QH_GGUF_U32:
    case QH_GGUF_U64: return json_integer((json_int_t)it->v.u);
    case QH_GGUF_I8:
    case QH_GGUF_I16:
    case QH_GGUF_I32:
    case QH_GGUF_I64: return json_integer((json_int_t)it->v.i);
    case QH_GGUF_F32:
    case QH_GGUF_F64: {
        json_t *v = json_real(it->v.f);
        return v ? v : json_null();         /* JSON has no infinities */
    }
    case QH_GGUF_BOOL: return json_boolean(it->v.b);
    case QH_GGUF_STRING: return json_text(it->v.s);
    case QH_GGUF_ARRAY: return json_items(&it->v.array, max_items);
    }
    return json_null();
}

static json_t *json_items(const qh_gguf_kv *kv, int max_items)
{
    json_t *a = json_array();
    qh_gguf_iter it = qh_gguf_items(kv);
    qh_gguf_item item;
    for (int n = 0; n < max_items && qh_gguf_next(&it, &item); n++)
        json_array_append_new(a, json_item(&item, max_items));
    return a;
}

static void print_key(const qh_gguf_kv *kv, int max_items)
{
    qh_gguf_iter it = qh_gguf_items(kv);
    qh_gguf_item item;
    if (kv->type == QH_GGUF_ARRAY)
        print_line(json_pack("{s:s,s:s,s:s,s:I,s:o}", "key", kv->key, "type", "array", "item_type",
                             qh_gguf_type_name(kv->item_type), "n_items", (json_int_t)kv->n_items, "value",
                             json_items(kv, max_items)));
    else if (qh_gguf_next(&it, &item))
        print_line(json_pack("{s:s,s:s,s:o}", "key", kv->key, "type", qh_gguf_type_name(kv->type), "value",
                             json_item(&item, max_items)));
}

static void print_tensor(const qh_gguf_tensor *t)
{
    json_t *shape = json_array();
    for (int d = 0; d < t->n_dims; d++) json_array_append_new(shape, json_integer((json_int_t)t->dims[d]));
    print_line(json_pack("{s:s,s:s,s:o,s:I,s:I,s:i}", "tensor", t->name, "type", qh_dtype_name(t->dtype), "shape",
                         shape, "bytes", (json_int_t)t->len_bytes, "offset", (json_int_t)t->offset, "shard", t->shard));
}

static qh_status print_model(const char *path, qh_err *err)
{
    qh_model *m = NULL;
    qh_status st = qh_model_open(&m, path, err);
    if (st) return st;
    const qh_desc *d = qh_model_desc(m);
    print_line(json_pack("{s:{s:s,s:s,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:I}}", "model", "name", qh_model_name(m), "arch",
                         d->arch, "layers", d->n_layers, "dim", d->dim, "ffn_dim", d->ffn_dim, "heads", d->n_heads,
                         "kv_heads", d->n_kv_heads, "head_dim", d->head_dim, "vocab", d->n_vocab, "context",
                         d->n_ctx_train, "weight_bytes", (json_int_t)qh_model_weight_bytes(m)));
    qh_model_close(m);
    return QH_OK;
}

static void print_file(const qh_gguf *g, int max_items)
{
    print_line(json_pack("{s:s,s:i,s:i,s:I,s:i,s:i}", "file", qh_gguf_path(g), "version", qh_gguf_version(g), "shards",
                         qh_gguf_n_shards(g), "bytes", (json_int_t)qh_gguf_file_bytes(g), "keys", qh_gguf_n_keys(g),
                         "tensors", qh_gguf_n_tensors(g)));
    for (int i = 0; i < qh_gguf_n_keys(g); i++) print_key(qh_gguf_kv_at(g, i), max_items);
    for (int i = 0; i < qh_gguf_n_tensors(g); i++) print_tensor(qh_gguf_tensor_at(g, i));
}

int qh_cmd_inspect(int argc, char **argv)
{
    int max_items = 8;
    const qh_opt opts[] = {
        {"items", 0, QH_OPT_INT, &max_items, 0, 1 << 22, "N", "show so many items of an array; default 8"}, {0}};
    const qh_opt_spec spec = {
        "qhost inspect FILE|MODEL [options]",
        "Writes JSON Lines: the file, its metadata, its tensors, and what qhost makes of it.\n"
        "  {\"file\", \"version\", \"shards\", \"bytes\", \"keys\", \"tensors\"}\n"
        "  {\"key\", \"type\", \"value\"}            for an array also \"item_type\" and \"n_items\"\n"
        "  {\"tensor\", \"type\", \"shape\", \"bytes\", \"offset\", \"shard\"}    shape: fastest dimension first\n"
        "  {\"model\": {\"name\", \"arch\", \"layers\", \"dim\", ...}}\n"
        "A file that cannot be read, or that is no model qhost can run, is an error with exit code 1.", opts, 1, 1};
    const char *args[argc];
    int n_args, rc = qh_opts_parse(&spec, argc, argv, args, &n_args);
    if (rc >= 0) return rc;

    qh_err err = {0};
    qh_gguf *g = NULL;
    char *path = NULL;
    qh_status st = qh_models_find(&path, args[0], &err);
    if (!st) st = qh_gguf_open(&g, path, &err);
    if (!st) {
        print_file(g, max_items);
        st = print_model(path, &err);
    }
    qh_gguf_close(g);
    qh_free(path);
    return st ? qh_cmd_fail(&err) : QH_EXIT_OK;
}
