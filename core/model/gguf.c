/* gguf.c - see gguf.h
 *
 * Reading goes through a cursor that ends at the end of the file or of the metadata budget; take()
 * is the only place that moves it. Names are copied (they need a NUL), values stay in the mapping.
 * Keys and tensors are found by binary search in sorted tables: no hash, so no chosen collisions. */
#include "model/gguf.h"
#include "base/arena.h"
#include "base/mapfile.h"
#include "base/mem.h"
#include "base/str.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    HEADER_BYTES = 24,                  /* magic, version, n_tensors, n_keys */
    MIN_KV_BYTES = 8 + 1 + 4 + 1,       /* key length, key, type, a u8 */
    MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8,
    DEFAULT_ALIGNMENT = 32,
    NAME_ARENA_BYTES = 16 << 20
};

typedef struct {
    char *path;
    qh_mapfile file;                    /* zeroed when the bytes are the caller's */
    const unsigned char *data;
    size_t len_bytes;
    uint32_t version;
    size_t meta_bytes;                  /* header to the end of the directory */
    uint64_t alignment;
    int n_keys;
    qh_gguf_kv *kvs;                    /* [n_keys] in file order */
    const qh_gguf_kv **by_key;          /* [n_keys] sorted */
} shard;

struct qh_gguf {
    int n_shards;
    shard *shards;                      /* [n_shards] */
    int n_tensors;
    qh_gguf_tensor *tensors;            /* [n_tensors] in file order */
    const qh_gguf_tensor **by_name;     /* [n_tensors] sorted */
    qh_arena *names;
    size_t meta_budget;                 /* bytes that metadata may still take */
};

/* ---- the cursor ---- */

typedef struct {
    const shard *file;
    const unsigned char *at, *end;
    bool is_cut;                        /* end is the metadata budget, not the end of the file */
    const char *kind;                   /* what is being read, for messages: "key", "tensor" ... */
    int index;
    const char *name;                   /* NULL while not yet known */
    qh_err *err;
} reader;

static qh_status bad(reader *r, qh_status st, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static qh_status bad(reader *r, qh_status st, const char *fmt, ...)
{
    char what[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    if (r->name) return qh_fail(r->err, st, "%s: %s '%s': %s", r->file->path, r->kind, r->name, what);
    if (r->index >= 0)
        return qh_fail(r->err, st, "%s: %s number %d: %s", r->file->path, r->kind, r->index, what);
    return qh_fail(r->err, st, "%s: %s: %s", r->file->path, r->kind, what);
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "values are read as they lie in the file");

static size_t left(const reader *r) { return (size_t)(r->end - r->at); }

static qh_status take(reader *r, const unsigned char **out, uint64_t n_bytes, const char *what)
{
    if (n_bytes > left(r)) {
        const size_t at = (size_t)(r->at - r->file->data);
        if (r->is_cut)
            return bad(r, QH_ELIMIT, "metadata goes past %d bytes, the most that is accepted",
                       QH_GGUF_MAX_META_BYTES);
        return bad(r, QH_EFORMAT, "%s at byte %zu needs %llu bytes, but the file ends at byte %zu", what,
                   at, (unsigned long long)n_bytes, r->file->len_bytes);
    }
    *out = r->at;
    r->at += n_bytes;
    return QH_OK;
}

static uint32_t load_u32(const unsigned char *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

static uint64_t load_u64(const unsigned char *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

static qh_status take_u32(reader *r, uint32_t *out, const char *what)
{
    const unsigned char *p = NULL;
    qh_status st = take(r, &p, 4, what);
    if (!st) *out = load_u32(p);
    return st;
}

static qh_status take_u64(reader *r, uint64_t *out, const char *what)
{
    const unsigned char *p = NULL;
    qh_status st = take(r, &p, 8, what);
    if (!st) *out = load_u64(p);
    return st;
}

static qh_status skip_string(reader *r)
{
    const unsigned char *p;
    uint64_t len = 0;
    qh_status st = take_u64(r, &len, "a string's length");
    if (st) return st;
    if (len > QH_GGUF_MAX_STRING_BYTES)
        return bad(r, QH_ELIMIT, "a string of %llu bytes, expected at most %d", (unsigned long long)len,
                   QH_GGUF_MAX_STRING_BYTES);
    return take(r, &p, len, "a string");
}

/* A key or tensor name: 1..max bytes of printable ASCII, so that it can stand in messages. */
static qh_status take_name(qh_gguf *g, reader *r, size_t max_bytes, const char **out)
{
    const unsigned char *p = NULL;
    uint64_t len = 0;
    qh_status st = take_u64(r, &len, "the name's length");
    if (st) return st;
    if (len == 0 || len > max_bytes)
        return bad(r, QH_EFORMAT, "a name of %llu bytes, expected 1 to %zu", (unsigned long long)len,
                   max_bytes);
    if ((st = take(r, &p, len, "the name"))) return st;
    for (size_t i = 0; i < len; i++)
        if (p[i] < 0x20 || p[i] > 0x7e)
            return bad(r, QH_EFORMAT, "byte 0x%02x in its name, expected printable ASCII", p[i]);
    *out = qh_arena_strndup(g->names, (const char *)p, len);
    return *out ? QH_OK : bad(r, QH_ENOMEM, "no memory for its name");
}

/* ---- metadata values ---- */

typedef struct {
    const char *name;
    size_t bytes;                       /* 0: varies */
} type_info;

static const type_info *type_of(uint32_t number)
{
    static const type_info table[] = {
#define X(name, number, bytes) [number] = {#name, bytes},
        QH_GGUF_TYPE_LIST(X)
#undef X
    };
    return number < sizeof table / sizeof *table ? &table[number] : NULL;
}

const char *qh_gguf_type_name(qh_gguf_type t)
{
    static const char *const names[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                        "bool", "string", "array", "u64", "i64", "f64"};
    qh_assert((size_t)t < sizeof names / sizeof *names);
    return names[t];
}

static qh_status take_type(reader *r, qh_gguf_type *out, const char *what)
{
    uint32_t number = 0;
    qh_status st = take_u32(r, &number, what);
    if (st) return st;
    if (!type_of(number))
        return bad(r, QH_EFORMAT, "%s is %u, expected 0 (u8) to 12 (f64)", what, number);
    *out = (qh_gguf_type)number;
    return QH_OK;
}

static qh_status skip_items(reader *r, qh_gguf_type type, int64_t n, int depth);

static qh_status take_array_head(reader *r, qh_gguf_type *item_type, int64_t *n_items)
{
    uint64_t n = 0;
    qh_status st = take_type(r, item_type, "the array's item type");
    if (!st) st = take_u64(r, &n, "the array's length");
    if (st) return st;
    if (n > QH_GGUF_MAX_ARRAY_LEN)
        return bad(r, QH_ELIMIT, "an array of %llu items, expected at most %d", (unsigned long long)n,
                   QH_GGUF_MAX_ARRAY_LEN);
    *n_items = (int64_t)n;
    return QH_OK;
}

static qh_status skip_arrays(reader *r, int64_t n, int depth)
{
    if (depth == QH_GGUF_MAX_NESTING)
        return bad(r, QH_ELIMIT, "arrays nested over %d deep", QH_GGUF_MAX_NESTING);
    for (int64_t i = 0; i < n; i++) {
        qh_gguf_type type = QH_GGUF_U8;
        int64_t n_items = 0;
        qh_status st = take_array_head(r, &type, &n_items);
        if (!st) st = skip_items(r, type, n_items, depth + 1);
        if (st) return st;
    }
    return QH_OK;
}

static qh_status skip_items(reader *r, qh_gguf_type type, int64_t n, int depth)
{
    if (type == QH_GGUF_ARRAY) return skip_arrays(r, n, depth);
    if (type == QH_GGUF_STRING) {
        qh_status st = QH_OK;
        for (int64_t i = 0; i < n && !st; i++) st = skip_string(r);
        return st;
    }
    const unsigned char *p = NULL;
    qh_status st = take(r, &p, (uint64_t)n * type_of(type)->bytes, "the value");
    if (st || type != QH_GGUF_BOOL) return st;
    for (int64_t i = 0; i < n; i++)
        if (p[i] > 1) return bad(r, QH_EFORMAT, "a bool of value %u, expected 0 or 1", p[i]);
    return QH_OK;
}

static qh_status read_kv(qh_gguf *g, reader *r, qh_gguf_kv *kv)
{
    qh_status st = take_name(g, r, QH_GGUF_MAX_KEY_BYTES, &kv->key);
    if (st) return st;
    r->name = kv->key;
    if ((st = take_type(r, &kv->type, "the value's type"))) return st;
    kv->item_type = kv->type;
    kv->n_items = 1;
    if (kv->type == QH_GGUF_ARRAY && (st = take_array_head(r, &kv->item_type, &kv->n_items))) return st;
    kv->data = r->at;
    return skip_items(r, kv->item_type, kv->n_items, kv->type == QH_GGUF_ARRAY ? 1 : 0);
}

static int cmp_kv(const void *a, const void *b)
{
    return strcmp((*(const qh_gguf_kv *const *)a)->key, (*(const qh_gguf_kv *const *)b)->key);
}

static qh_status sort_keys(shard *s, qh_err *err)
{
    s->by_key = qh_try_alloc0((size_t)s->n_keys, sizeof *s->by_key);
    if (!s->by_key) return qh_fail(err, QH_ENOMEM, "%s: no memory for %d keys", s->path, s->n_keys);
    for (int i = 0; i < s->n_keys; i++) s->by_key[i] = &s->kvs[i];
    if (s->n_keys) qsort(s->by_key, (size_t)s->n_keys, sizeof *s->by_key, cmp_kv);
    for (int i = 1; i < s->n_keys; i++)
        if (!strcmp(s->by_key[i]->key, s->by_key[i - 1]->key))
            return qh_fail(err, QH_EFORMAT, "%s: key '%s': appears twice, expected once", s->path,
                           s->by_key[i]->key);
    return QH_OK;
}

/* ---- typed access ---- */

static const qh_gguf_kv *find_kv(const shard *s, const char *key)
{
    const qh_gguf_kv wanted = {.key = key}, *p = &wanted;
    const qh_gguf_kv **hit =
        s->n_keys ? bsearch(&p, s->by_key, (size_t)s->n_keys, sizeof *s->by_key, cmp_kv) : NULL;
    return hit ? *hit : NULL;
}

qh_gguf_iter qh_gguf_items(const qh_gguf_kv *kv)
{
    return (qh_gguf_iter){kv->key, kv->data, kv->item_type, kv->n_items};
}

/* Where items that were checked at open end. */
static const unsigned char *end_of_items(const unsigned char *p, qh_gguf_type type, int64_t n)
{
    if (type_of(type)->bytes) return p + (size_t)n * type_of(type)->bytes;
    for (; n > 0; n--) {
        if (type == QH_GGUF_STRING) p += 8 + load_u64(p);
        else p = end_of_items(p + 12, (qh_gguf_type)load_u32(p), (int64_t)load_u64(p + 4));
    }
    return p;
}

qh_slice qh_gguf_kv_bytes(const qh_gguf_kv *kv)
{
    const unsigned char *end = end_of_items(kv->data, kv->item_type, kv->n_items);
    return (qh_slice){(const char *)kv->data, (size_t)(end - kv->data)};
}

bool qh_gguf_next(qh_gguf_iter *it, qh_gguf_item *out)
{
    if (it->n_left == 0) return false;
    const unsigned char *p = it->next;
    *out = (qh_gguf_item){.type = it->type};
    switch (it->type) {
    case QH_GGUF_U8: out->v.u = *p; break;
    case QH_GGUF_BOOL: out->v.b = *p != 0; break;
    case QH_GGUF_I8: out->v.i = (int8_t)*p; break;
    case QH_GGUF_U16: out->v.u = (uint16_t)(p[0] | p[1] << 8); break;
    case QH_GGUF_I16: out->v.i = (int16_t)(p[0] | p[1] << 8); break;
    case QH_GGUF_U32: out->v.u = load_u32(p); break;
    case QH_GGUF_I32: out->v.i = (int32_t)load_u32(p); break;
    case QH_GGUF_U64: out->v.u = load_u64(p); break;
    case QH_GGUF_I64: out->v.i = (int64_t)load_u64(p); break;
    case QH_GGUF_F64: memcpy(&out->v.f, p, 8); break;
    case QH_GGUF_F32: {
        float f;
        memcpy(&f, p, 4);
        out->v.f = f;
        break;
    }
    case QH_GGUF_STRING: out->v.s = (qh_slice){(const char *)p + 8, load_u64(p)}; break;
    case QH_GGUF_ARRAY:
        out->v.array = (qh_gguf_kv){.key = it->key, .type = QH_GGUF_ARRAY, .data = p + 12,
                                    .item_type = (qh_gguf_type)load_u32(p),
                                    .n_items = (int64_t)load_u64(p + 4)};
        break;
    }
    it->next = end_of_items(p, it->type, 1);
    it->n_left--;
    return true;
}

static const char *article_name(const qh_gguf_kv *kv, char buf[48])
{
    const char *name = qh_gguf_type_name(kv->item_type);
    if (kv->type == QH_GGUF_ARRAY) snprintf(buf, 48, "an array of %s", name);
    else snprintf(buf, 48, "%s %s", strchr("if", *name) ? "an" : "a", name);
    return buf;
}

static qh_status wrong_type(const shard *s, const qh_gguf_kv *kv, const char *expected, qh_err *err)
{
    char buf[48];
    return qh_fail(err, QH_EFORMAT, "%s: key '%s': is %s, expected %s", s->path, kv->key,
                   article_name(kv, buf), expected);
}

static qh_status missing(const shard *s, const char *key, const char *expected, qh_err *err)
{
    return qh_fail(err, QH_ENOTFOUND, "%s: key '%s': missing, expected %s", s->path, key, expected);
}

static bool is_integer(qh_gguf_type t)
{
    return t <= QH_GGUF_I32 || t == QH_GGUF_U64 || t == QH_GGUF_I64;
}

static bool is_unsigned(qh_gguf_type t)
{
    return t == QH_GGUF_U8 || t == QH_GGUF_U16 || t == QH_GGUF_U32 || t == QH_GGUF_U64;
}

static qh_status shard_int(const shard *s, const char *key, int64_t min, int64_t max, int64_t *out,
                           qh_err *err)
{
    char expected[96];
    snprintf(expected, sizeof expected, "an integer from %lld to %lld", (long long)min, (long long)max);
    const qh_gguf_kv *kv = find_kv(s, key);
    if (!kv) return missing(s, key, expected, err);
    if (!is_integer(kv->type)) return wrong_type(s, kv, expected, err);

    qh_gguf_item item;
    qh_gguf_iter it = qh_gguf_items(kv);
    qh_gguf_next(&it, &item);
    if (is_unsigned(kv->type) && item.v.u > INT64_MAX)
        return qh_fail(err, QH_EFORMAT, "%s: key '%s': is %llu, expected %s", s->path, key,
                       (unsigned long long)item.v.u, expected);
    if (item.v.i < min || item.v.i > max)
        return qh_fail(err, QH_EFORMAT, "%s: key '%s': is %lld, expected %s", s->path, key,
                       (long long)item.v.i, expected);
    *out = item.v.i;
    return QH_OK;
}

qh_status qh_gguf_int(const qh_gguf *g, const char *key, int64_t min, int64_t max, int64_t *out,
                      qh_err *err)
{
    return shard_int(&g->shards[0], key, min, max, out, err);
}

qh_status qh_gguf_float(const qh_gguf *g, const char *key, double min, double max, double *out,
                        qh_err *err)
{
    const shard *s = &g->shards[0];
    char expected[96];
    snprintf(expected, sizeof expected, "a float from %g to %g", min, max);
    const qh_gguf_kv *kv = find_kv(s, key);
    if (!kv) return missing(s, key, expected, err);
    if (kv->type != QH_GGUF_F32 && kv->type != QH_GGUF_F64) return wrong_type(s, kv, expected, err);

    qh_gguf_item item;
    qh_gguf_iter it = qh_gguf_items(kv);
    qh_gguf_next(&it, &item);
    if (isnan(item.v.f) || item.v.f < min || item.v.f > max)
        return qh_fail(err, QH_EFORMAT, "%s: key '%s': is %g, expected %s", s->path, key, item.v.f,
                       expected);
    *out = item.v.f;
    return QH_OK;
}

static qh_status scalar_of(const qh_gguf *g, const char *key, qh_gguf_type type, const char *expected,
                           qh_gguf_item *out, qh_err *err)
{
    const shard *s = &g->shards[0];
    const qh_gguf_kv *kv = find_kv(s, key);
    if (!kv) return missing(s, key, expected, err);
    if (kv->type != type) return wrong_type(s, kv, expected, err);
    qh_gguf_iter it = qh_gguf_items(kv);
    qh_gguf_next(&it, out);
    return QH_OK;
}

qh_status qh_gguf_bool(const qh_gguf *g, const char *key, bool *out, qh_err *err)
{
    qh_gguf_item item;
    qh_status st = scalar_of(g, key, QH_GGUF_BOOL, "a bool", &item, err);
    if (!st) *out = item.v.b;
    return st;
}

qh_status qh_gguf_string(const qh_gguf *g, const char *key, qh_slice *out, qh_err *err)
{
    qh_gguf_item item;
    qh_status st = scalar_of(g, key, QH_GGUF_STRING, "a string", &item, err);
    if (!st) *out = item.v.s;
    return st;
}

qh_status qh_gguf_array(const qh_gguf *g, const char *key, qh_gguf_type item_type, int64_t min_items,
                        int64_t max_items, const qh_gguf_kv **out, qh_err *err)
{
    const shard *s = &g->shards[0];
    char expected[96];
    snprintf(expected, sizeof expected, "an array of %lld to %lld items of type %s", (long long)min_items,
             (long long)max_items, qh_gguf_type_name(item_type));
    const qh_gguf_kv *kv = find_kv(s, key);
    if (!kv) return missing(s, key, expected, err);
    if (kv->type != QH_GGUF_ARRAY || kv->item_type != item_type) return wrong_type(s, kv, expected, err);
    if (kv->n_items < min_items || kv->n_items > max_items)
        return qh_fail(err, QH_EFORMAT, "%s: key '%s': has %lld items, expected %s", s->path, key,
                       (long long)kv->n_items, expected);
    *out = kv;
    return QH_OK;
}

qh_gguf_shown qh_gguf_show(qh_slice s)
{
    enum { MAX_SHOWN = 40 };
    qh_gguf_shown shown = {{0}};
    const size_t n = s.len < MAX_SHOWN ? s.len : MAX_SHOWN;
    for (size_t i = 0; i < n; i++)
        shown.text[i] = s.data[i] < 0x20 || s.data[i] > 0x7e ? '?' : s.data[i];
    if (n < s.len) memcpy(shown.text + n, "...", 3);
    return shown;
}

/* ---- the tensor directory ---- */

/* Types of ggml that a file may hold and that are not in QH_DTYPE_LIST, for a message by name. */
static const char *foreign_type_name(uint32_t number)
{
    static const char *const names[] = {
        [9] = "Q8_1",     [15] = "Q8_K",   [16] = "IQ2_XXS", [17] = "IQ2_XS", [18] = "IQ3_XXS",
        [19] = "IQ1_S",   [21] = "IQ3_S",  [22] = "IQ2_S",   [24] = "I8",     [25] = "I16",
        [26] = "I32",     [27] = "I64",    [28] = "F64",     [29] = "IQ1_M",  [34] = "TQ1_0",
        [35] = "TQ2_0",   [39] = "MXFP4",  [40] = "NVFP4"};
    return number < sizeof names / sizeof *names && names[number] ? names[number] : "unknown";
}

static qh_status read_dims(reader *r, qh_gguf_tensor *t, int64_t *n_elements)
{
    uint32_t n_dims = 0;
    qh_status st = take_u32(r, &n_dims, "the number of dimensions");
    if (st) return st;
    if (n_dims < 1 || n_dims > QH_GGUF_MAX_DIMS)
        return bad(r, QH_EFORMAT, "%u dimensions, expected 1 to %d", n_dims, QH_GGUF_MAX_DIMS);
    t->n_dims = (int)n_dims;
    *n_elements = 1;
    for (int i = 0; i < QH_GGUF_MAX_DIMS; i++) {
        uint64_t dim = 1;
        if (i < t->n_dims && (st = take_u64(r, &dim, "a dimension"))) return st;
        if (dim < 1 || dim > INT64_MAX || __builtin_mul_overflow(*n_elements, (int64_t)dim, n_elements))
            return bad(r, QH_EFORMAT, "dimension %d is %llu, expected at least 1 and fewer than 2^63 "
                       "elements in all", i, (unsigned long long)dim);
        t->dims[i] = (int64_t)dim;
    }
    return QH_OK;
}

static qh_status unsupported_type(reader *r, uint32_t number)
{
    return bad(r, QH_EUNSUPPORTED, "type %u (%s) is not supported, expected one of"
#define X(name, number, n, bytes) " " #name
               QH_DTYPE_LIST(X)
#undef X
               , number, foreign_type_name(number));
}

/* The offset is kept as stored; locate() turns it into a place once the directory's end is known. */
static qh_status read_tensor(qh_gguf *g, reader *r, qh_gguf_tensor *t)
{
    uint32_t number = 0;
    int64_t n_elements = 0;
    qh_status st = take_name(g, r, QH_GGUF_MAX_NAME_BYTES, &t->name);
    if (st) return st;
    r->name = t->name;
    if ((st = read_dims(r, t, &n_elements))) return st;
    if ((st = take_u32(r, &number, "the type"))) return st;
    if (!qh_dtype_is_known(number)) return unsupported_type(r, number);
    t->dtype = (qh_dtype)number;
    const size_t row_bytes = qh_dtype_row_bytes(t->dtype, t->dims[0]);
    if (!row_bytes)
        return bad(r, QH_EFORMAT, "rows of %lld elements, expected a multiple of %d for type %s",
                   (long long)t->dims[0], qh_dtype_block_len(t->dtype), qh_dtype_name(t->dtype));
    if (__builtin_mul_overflow((uint64_t)(n_elements / t->dims[0]), row_bytes, &t->len_bytes))
        return bad(r, QH_EFORMAT, "more than 2^64 bytes");
    return take_u64(r, &t->offset, "the offset");
}

static qh_status locate(reader *r, const shard *s, uint64_t data_start, qh_gguf_tensor *t)
{
    uint64_t begin, end;
    r->name = t->name;
    if (t->offset % s->alignment)
        return bad(r, QH_EFORMAT, "offset %llu, expected a multiple of the alignment %llu",
                   (unsigned long long)t->offset, (unsigned long long)s->alignment);
    if (__builtin_add_overflow(data_start, t->offset, &begin) ||
        __builtin_add_overflow(begin, t->len_bytes, &end) || end > s->len_bytes)
        return bad(r, QH_EFORMAT, "%llu bytes of data at offset %llu go past the end of the file, which "
                   "has %zu bytes: expected a complete file", (unsigned long long)t->len_bytes,
                   (unsigned long long)t->offset, s->len_bytes);
    t->offset = begin;
    t->data = s->data + begin;
    return QH_OK;
}

static int cmp_name(const void *a, const void *b)
{
    return strcmp((*(const qh_gguf_tensor *const *)a)->name, (*(const qh_gguf_tensor *const *)b)->name);
}

static int cmp_place(const void *a, const void *b)
{
    const qh_gguf_tensor *x = *(const qh_gguf_tensor *const *)a, *y = *(const qh_gguf_tensor *const *)b;
    if (x->shard != y->shard) return x->shard < y->shard ? -1 : 1;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Names are unique over all shards and no two tensors share bytes, so that what a model needs in
 * memory is bounded by the size of its file. */
static qh_status sort_tensors(qh_gguf *g, qh_err *err)
{
    const size_t n = (size_t)g->n_tensors;
    const qh_gguf_tensor **t = g->by_name = qh_try_alloc0(n, sizeof *t);
    if (!t) return qh_fail(err, QH_ENOMEM, "%s: no memory for %zu tensors", g->shards[0].path, n);
    for (size_t i = 0; i < n; i++) t[i] = &g->tensors[i];

    if (n) qsort(t, n, sizeof *t, cmp_place);
    for (size_t i = 1; i < n; i++)
        if (t[i]->shard == t[i - 1]->shard && t[i]->offset < t[i - 1]->offset + t[i - 1]->len_bytes)
            return qh_fail(err, QH_EFORMAT, "%s: tensor '%s': overlaps tensor '%s', expected data of its own",
                           g->shards[t[i]->shard].path, t[i]->name, t[i - 1]->name);
    if (n) qsort(t, n, sizeof *t, cmp_name);
    for (size_t i = 1; i < n; i++)
        if (!strcmp(t[i]->name, t[i - 1]->name))
            return qh_fail(err, QH_EFORMAT, "%s: tensor '%s': appears twice, expected once",
                           g->shards[t[i]->shard].path, t[i]->name);
    return QH_OK;
}

/* ---- one file ---- */

static qh_status read_header(reader *r, shard *s, uint64_t *n_tensors, uint64_t *n_keys)
{
    const unsigned char *p = NULL;
    qh_status st = take(r, &p, HEADER_BYTES, "the header");
    if (st) return st;
    if (memcmp(p, "GGUF", 4))
        return bad(r, QH_EFORMAT, "starts with bytes %02x %02x %02x %02x, expected \"GGUF\"", p[0], p[1],
                   p[2], p[3]);
    s->version = load_u32(p + 4);
    if (s->version && !(s->version & 0xffff))
        return bad(r, QH_EUNSUPPORTED, "a big-endian file, expected little-endian");
    if (s->version != 2 && s->version != 3)
        return bad(r, QH_EUNSUPPORTED, "version %u, expected 2 or 3", s->version);
    *n_tensors = load_u64(p + 8);
    *n_keys = load_u64(p + 16);
    return QH_OK;
}

/* Counts are checked against the bytes that are left before anything is allocated by them. */
static qh_status check_count(reader *r, uint64_t n, uint64_t max, size_t min_bytes, const char *what)
{
    if (n > max)
        return bad(r, QH_ELIMIT, "%llu %s, expected at most %llu", (unsigned long long)n, what,
                   (unsigned long long)max);
    if (n * min_bytes > left(r) && !r->is_cut)
        return bad(r, QH_EFORMAT, "%llu %s do not fit in a file of %zu bytes", (unsigned long long)n, what,
                   r->file->len_bytes);
    return QH_OK;
}

static qh_status read_keys(qh_gguf *g, reader *r, shard *s, uint64_t n_keys)
{
    s->kvs = qh_try_alloc0(n_keys, sizeof *s->kvs);
    if (!s->kvs) return bad(r, QH_ENOMEM, "no memory for %llu keys", (unsigned long long)n_keys);
    r->kind = "key";
    for (uint64_t i = 0; i < n_keys; i++) {
        r->index = (int)i;
        r->name = NULL;
        qh_status st = read_kv(g, r, &s->kvs[i]);
        if (st) return st;
    }
    s->n_keys = (int)n_keys;
    return sort_keys(s, r->err);
}

static qh_status read_alignment(shard *s, qh_err *err)
{
    static const char key[] = "general.alignment";
    int64_t a = DEFAULT_ALIGNMENT;
    qh_status st = find_kv(s, key) ? shard_int(s, key, 8, QH_GGUF_MAX_ALIGNMENT, &a, err) : QH_OK;
    if (st) return st;
    if (a & (a - 1))
        return qh_fail(err, QH_EFORMAT, "%s: key '%s': is %lld, expected a power of two", s->path, key,
                       (long long)a);
    s->alignment = (uint64_t)a;
    return QH_OK;
}

static qh_status read_directory(qh_gguf *g, reader *r, shard *s, uint64_t n)
{
    qh_gguf_tensor *all = qh_try_realloc(g->tensors, (size_t)g->n_tensors + n, sizeof *all);
    if (!all) return bad(r, QH_ENOMEM, "no memory for %llu tensors", (unsigned long long)n);
    g->tensors = all;
    qh_gguf_tensor *mine = all + g->n_tensors;
    r->kind = "tensor";
    for (uint64_t i = 0; i < n; i++) {
        r->index = (int)i;
        r->name = NULL;
        mine[i] = (qh_gguf_tensor){.shard = (int)(s - g->shards)};
        qh_status st = read_tensor(g, r, &mine[i]);
        if (st) return st;
    }
    s->meta_bytes = (size_t)(r->at - s->data);
    const uint64_t data_start = (s->meta_bytes + s->alignment - 1) & ~(s->alignment - 1);
    for (uint64_t i = 0; i < n; i++) {
        qh_status st = locate(r, s, data_start, &mine[i]);
        if (st) return st;
    }
    g->n_tensors += (int)n;
    return QH_OK;
}

static qh_status read_shard(qh_gguf *g, shard *s, qh_err *err)
{
    reader r = {.file = s, .at = s->data, .end = s->data + s->len_bytes, .kind = "header", .index = -1,
                .err = err};
    uint64_t n_tensors = 0, n_keys = 0;
    if (s->len_bytes < HEADER_BYTES)
        return qh_fail(err, QH_EFORMAT, "%s: %zu bytes, expected a GGUF header of %d", s->path,
                       s->len_bytes, HEADER_BYTES);
    if (s->len_bytes > g->meta_budget) {
        r.end = s->data + g->meta_budget;
        r.is_cut = true;
    }
    const uint64_t max_tensors = QH_GGUF_MAX_TENSORS - (uint64_t)g->n_tensors;
    qh_status st = read_header(&r, s, &n_tensors, &n_keys);
    if (!st) st = check_count(&r, n_keys, QH_GGUF_MAX_KEYS, MIN_KV_BYTES, "keys");
    if (!st) st = check_count(&r, n_tensors, max_tensors, MIN_TENSOR_BYTES, "tensors");
    if (!st) st = read_keys(g, &r, s, n_keys);
    if (!st) st = read_alignment(s, err);
    if (!st) st = read_directory(g, &r, s, n_tensors);
    if (!st) g->meta_budget -= s->meta_bytes;
    return st;
}

static void drop_keys(shard *s)
{
    qh_free(s->kvs);
    qh_free(s->by_key);
    s->kvs = NULL;
    s->by_key = NULL;
    s->n_keys = 0;
}

static void close_shard(shard *s)
{
    drop_keys(s);
    qh_free(s->path);
    qh_mapfile_close(&s->file);
}

static qh_status map_shard(shard *s, const char *path, qh_err *err)
{
    s->path = qh_strdup(path);
    qh_status st = qh_mapfile_open(&s->file, path, err);
    if (st) return st;
    s->data = s->file.data;
    s->len_bytes = s->file.len_bytes;
    return QH_OK;
}

/* ---- split models: PREFIX-00001-of-00003.gguf ---- */

static const char k_split_no[] = "split.no", k_split_count[] = "split.count";

/* *n_shards and *first_stem_len (bytes of PREFIX) out of the first shard's name. */
static qh_status split_prefix(const shard *s, int n_shards, size_t *prefix_len, qh_err *err)
{
    char ending[32];
    snprintf(ending, sizeof ending, "-00001-of-%05d.gguf", n_shards);
    const size_t len = strlen(s->path), n = strlen(ending);
    if (len < n || strcmp(s->path + len - n, ending))
        return qh_fail(err, QH_EFORMAT, "%s: the first of %d files of a split model, expected a name that "
                       "ends in %s", s->path, n_shards, ending);
    *prefix_len = len - n;
    return QH_OK;
}

static qh_status check_split_keys(const shard *s, int no, int n_shards, qh_err *err)
{
    int64_t v = 0;
    qh_status st = shard_int(s, k_split_no, no, no, &v, err);
    if (!st) st = shard_int(s, k_split_count, n_shards, n_shards, &v, err);
    return st;
}

static qh_status open_more_shards(qh_gguf *g, int n_shards, qh_err *err)
{
    size_t prefix_len = 0;
    qh_status st = split_prefix(&g->shards[0], n_shards, &prefix_len, err);
    for (int i = 1; i < n_shards && !st; i++) {
        qh_str path = {0};
        qh_str_append(&path, g->shards[0].path, prefix_len);
        qh_str_appendf(&path, "-%05d-of-%05d.gguf", i + 1, n_shards);
        shard *s = &g->shards[g->n_shards++];
        st = map_shard(s, path.data, err);
        if (!st) st = read_shard(g, s, err);
        if (!st) st = check_split_keys(s, i, n_shards, err);
        drop_keys(s);
        qh_str_deinit(&path);
    }
    if (st || !find_kv(&g->shards[0], "split.tensors.count")) return st;
    int64_t n = 0;
    st = shard_int(&g->shards[0], "split.tensors.count", 0, QH_GGUF_MAX_TENSORS, &n, err);
    if (!st && n != g->n_tensors)
        st = qh_fail(err, QH_EFORMAT, "%s: key 'split.tensors.count': is %lld, but the %d files hold %d",
                     g->shards[0].path, (long long)n, n_shards, g->n_tensors);
    return st;
}

static qh_status read_split(qh_gguf *g, bool has_path, qh_err *err)
{
    const shard *first = &g->shards[0];
    int64_t n_shards = 1, no = 0;
    if (!find_kv(first, k_split_count)) return QH_OK;
    qh_status st = shard_int(first, k_split_count, 0, QH_GGUF_MAX_SHARDS, &n_shards, err);
    if (st || n_shards <= 1) return st;
    if ((st = shard_int(first, k_split_no, 0, n_shards - 1, &no, err))) return st;
    if (no)
        return qh_fail(err, QH_EINVAL, "%s: part %lld of a split model, expected its first file",
                       first->path, (long long)no + 1);
    if (!has_path)
        return qh_fail(err, QH_EUNSUPPORTED, "%s: a split model, expected a whole one", first->path);
    return open_more_shards(g, (int)n_shards, err);
}

/* ---- open and close ---- */

static qh_gguf *new_gguf(void)
{
    qh_gguf *g = qh_new0(qh_gguf);
    g->shards = qh_alloc0(QH_GGUF_MAX_SHARDS * sizeof *g->shards);
    g->names = qh_arena_new(NAME_ARENA_BYTES);
    g->meta_budget = QH_GGUF_MAX_META_BYTES;
    g->n_shards = 1;
    return g;
}

static qh_status finish_open(qh_gguf **out, qh_gguf *g, qh_status st, bool has_path, qh_err *err)
{
    if (!st) st = read_shard(g, &g->shards[0], err);
    if (!st) st = read_split(g, has_path, err);
    if (!st) st = sort_tensors(g, err);
    if (st) qh_gguf_close(g);
    else *out = g;
    return st;
}

qh_status qh_gguf_open(qh_gguf **out, const char *path, qh_err *err)
{
    *out = NULL;
    qh_gguf *g = new_gguf();
    return finish_open(out, g, map_shard(&g->shards[0], path, err), true, err);
}

qh_status qh_gguf_open_bytes(qh_gguf **out, const char *name, const void *data, size_t len_bytes,
                             qh_err *err)
{
    *out = NULL;
    qh_gguf *g = new_gguf();
    g->shards[0] = (shard){.path = qh_strdup(name), .data = data, .len_bytes = len_bytes};
    return finish_open(out, g, QH_OK, false, err);
}

void qh_gguf_close(qh_gguf *g)
{
    if (!g) return;
    for (int i = 0; i < g->n_shards; i++) close_shard(&g->shards[i]);
    qh_free(g->shards);
    qh_free(g->tensors);
    qh_free(g->by_name);
    qh_arena_free(g->names);
    qh_free(g);
}

const char *qh_gguf_path(const qh_gguf *g) { return g->shards[0].path; }
int qh_gguf_version(const qh_gguf *g) { return (int)g->shards[0].version; }
int qh_gguf_n_shards(const qh_gguf *g) { return g->n_shards; }

uint64_t qh_gguf_file_bytes(const qh_gguf *g)
{
    uint64_t n = 0;
    for (int i = 0; i < g->n_shards; i++) n += g->shards[i].len_bytes;
    return n;
}

qh_slice qh_gguf_meta_bytes(const qh_gguf *g)
{
    return (qh_slice){(const char *)g->shards[0].data, g->shards[0].meta_bytes};
}

int qh_gguf_n_tensors(const qh_gguf *g) { return g->n_tensors; }
int qh_gguf_n_keys(const qh_gguf *g) { return g->shards[0].n_keys; }

const qh_gguf_tensor *qh_gguf_tensor_at(const qh_gguf *g, int i)
{
    qh_assert(i >= 0 && i < g->n_tensors);
    return &g->tensors[i];
}

const qh_gguf_kv *qh_gguf_kv_at(const qh_gguf *g, int i)
{
    qh_assert(i >= 0 && i < g->shards[0].n_keys);
    return &g->shards[0].kvs[i];
}

const qh_gguf_kv *qh_gguf_find(const qh_gguf *g, const char *key) { return find_kv(&g->shards[0], key); }

const qh_gguf_tensor *qh_gguf_find_tensor(const qh_gguf *g, const char *name)
{
    const qh_gguf_tensor wanted = {.name = name}, *p = &wanted;
    const qh_gguf_tensor **hit =
        g->n_tensors ? bsearch(&p, g->by_name, (size_t)g->n_tensors, sizeof *g->by_name, cmp_name) : NULL;
    return hit ? *hit : NULL;
}
