/* gguf_builder.h - writes GGUF files in memory, well-formed or deliberately not.
 *
 * Keys first, then tensors, then gb_finish. Counts are filled in at the end; the raw writers put
 * anything anywhere. A builder may drop a key that the fixture adds, so that a test can put its own. */
#pragma once
#include "base/str.h"
#include "model/gguf.h"
#include <string.h>

typedef struct {
    qh_str bytes;
    uint64_t n_keys, n_tensors;
    uint64_t data_bytes;            /* where the next tensor's data goes */
    const char *drop_key, *drop_tensor;     /* NULL: none */
    size_t meta_bytes;              /* after gb_finish: header, keys and directory */
} gguf_builder;

static inline void gb_raw(gguf_builder *b, const void *p, size_t n) { qh_str_append(&b->bytes, p, n); }
static inline void gb_raw_u32(gguf_builder *b, uint32_t v) { gb_raw(b, &v, 4); }
static inline void gb_raw_u64(gguf_builder *b, uint64_t v) { gb_raw(b, &v, 8); }
static inline void gb_raw_str(gguf_builder *b, const char *s, size_t n)
{
    gb_raw_u64(b, n);
    gb_raw(b, s, n);
}

static inline void gb_begin(gguf_builder *b, uint32_t version)
{
    gb_raw(b, "GGUF", 4);
    gb_raw_u32(b, version);
    gb_raw_u64(b, 0);
    gb_raw_u64(b, 0);
}

/* A key and its type; the value follows. False when this key is to be dropped. */
static inline bool gb_key(gguf_builder *b, const char *key, uint32_t type)
{
    if (b->drop_key && !strcmp(b->drop_key, key)) return false;
    b->n_keys++;
    gb_raw_str(b, key, strlen(key));
    gb_raw_u32(b, type);
    return true;
}

static inline void gb_u32(gguf_builder *b, const char *key, uint32_t v)
{
    if (gb_key(b, key, QH_GGUF_U32)) gb_raw_u32(b, v);
}

static inline void gb_f32(gguf_builder *b, const char *key, float v)
{
    if (gb_key(b, key, QH_GGUF_F32)) gb_raw(b, &v, 4);
}

static inline void gb_bool(gguf_builder *b, const char *key, unsigned char v)
{
    if (gb_key(b, key, QH_GGUF_BOOL)) gb_raw(b, &v, 1);
}

static inline void gb_string(gguf_builder *b, const char *key, const char *v)
{
    if (gb_key(b, key, QH_GGUF_STRING)) gb_raw_str(b, v, strlen(v));
}

/* The head of an array; n items follow. */
static inline bool gb_array(gguf_builder *b, const char *key, uint32_t item_type, uint64_t n)
{
    if (!gb_key(b, key, QH_GGUF_ARRAY)) return false;
    gb_raw_u32(b, item_type);
    gb_raw_u64(b, n);
    return true;
}

static inline void gb_strings(gguf_builder *b, const char *key, const char *const *items, size_t n)
{
    if (!gb_array(b, key, QH_GGUF_STRING, n)) return;
    for (size_t i = 0; i < n; i++) gb_raw_str(b, items[i], strlen(items[i]));
}

static inline void gb_tensor_at(gguf_builder *b, const char *name, uint32_t n_dims, const uint64_t *dims,
                                uint32_t type, uint64_t offset)
{
    b->n_tensors++;
    gb_raw_str(b, name, strlen(name));
    gb_raw_u32(b, n_dims);
    for (uint32_t i = 0; i < n_dims; i++) gb_raw_u64(b, dims[i]);
    gb_raw_u32(b, type);
    gb_raw_u64(b, offset);
}

/* A well-formed tensor [dim, n_rows], or a vector when n_rows is 0, behind the ones before it. */
static inline void gb_tensor(gguf_builder *b, const char *name, uint64_t dim, uint64_t n_rows, qh_dtype type)
{
    if (b->drop_tensor && !strcmp(b->drop_tensor, name)) return;
    const uint64_t dims[2] = {dim, n_rows};
    gb_tensor_at(b, name, n_rows ? 2 : 1, dims, type, b->data_bytes);
    b->data_bytes += (n_rows ? n_rows : 1) * qh_dtype_row_bytes(type, (int64_t)dim);
    b->data_bytes = (b->data_bytes + 31) / 32 * 32;
}

/* Fill in the counts, pad to 32 and add the data: a repeated byte. */
static inline void gb_finish(gguf_builder *b, unsigned char fill)
{
    memcpy(b->bytes.data + 8, &b->n_tensors, 8);
    memcpy(b->bytes.data + 16, &b->n_keys, 8);
    b->meta_bytes = b->bytes.len;
    while (b->bytes.len % 32) qh_str_append_c(&b->bytes, 0);
    for (uint64_t i = 0; i < b->data_bytes; i++) qh_str_append_c(&b->bytes, (char)fill);
}
