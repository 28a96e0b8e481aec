/* gguf.h - a reader of GGUF files: typed metadata and a directory of checked tensors.
 *
 * GGUF v2 and v3, little-endian (ggml's docs/gguf.md). The file is mapped, nothing is copied but
 * names and the directory. The file is hostile until proved otherwise: open checks every length,
 * count, type, alignment and offset with 64-bit arithmetic that cannot wrap, and everything that
 * it hands out afterwards lies inside the mapping. What is wrong is refused with the file, the key
 * or tensor, and what was expected.
 *
 *   header | metadata: key, type, value ... | directory: name, shape, type, offset ... | pad | data
 *   <-------------- at most QH_GGUF_MAX_META_BYTES over all shards ----------------->
 *
 * A split model is opened by its first shard; metadata is the first shard's, tensors are of all.
 * Work and memory are bounded by these limits whatever the file says: one pass over the metadata,
 * one sort of keys and one of tensors. Thread: any after open, nothing changes. */
#pragma once
#include "base/err.h"
#include "base/str.h"
#include "model/dtype.h"

enum {
    QH_GGUF_MAX_DIMS = 4,
    QH_GGUF_MAX_KEYS = 4096,
    QH_GGUF_MAX_TENSORS = 1 << 16,              /* over all shards */
    QH_GGUF_MAX_SHARDS = 512,
    QH_GGUF_MAX_NAME_BYTES = 64,                /* of a tensor; GGUF's own limit */
    QH_GGUF_MAX_KEY_BYTES = 256,
    QH_GGUF_MAX_STRING_BYTES = 4 << 20,
    QH_GGUF_MAX_ARRAY_LEN = 4 << 20,            /* elements */
    QH_GGUF_MAX_NESTING = 4,                    /* arrays in arrays */
    QH_GGUF_MAX_ALIGNMENT = 1 << 20,
    QH_GGUF_MAX_META_BYTES = 24 << 20
};

/* name, GGUF number, bytes of a value (0: varies) */
#define QH_GGUF_TYPE_LIST(X)                                                                       \
    X(U8, 0, 1)                                                                                    \
    X(I8, 1, 1)                                                                                    \
    X(U16, 2, 2)                                                                                   \
    X(I16, 3, 2)                                                                                   \
    X(U32, 4, 4)                                                                                   \
    X(I32, 5, 4)                                                                                   \
    X(F32, 6, 4)                                                                                   \
    X(BOOL, 7, 1)                                                                                  \
    X(STRING, 8, 0)                                                                                \
    X(ARRAY, 9, 0)                                                                                 \
    X(U64, 10, 8)                                                                                  \
    X(I64, 11, 8)                                                                                  \
    X(F64, 12, 8)

typedef enum {
#define X(name, number, bytes) QH_GGUF_##name = number,
    QH_GGUF_TYPE_LIST(X)
#undef X
} qh_gguf_type;

typedef struct qh_gguf qh_gguf;

/* One metadata entry. A scalar is an array of one item for the iterator below. */
typedef struct {
    const char *key;                /* printable ASCII, NUL-terminated */
    qh_gguf_type type;              /* ARRAY: item_type and n_items say of what */
    qh_gguf_type item_type;         /* type of the items; of a scalar its own type */
    int64_t n_items;
    const unsigned char *data;      /* first item in the mapped file; unaligned */
} qh_gguf_kv;

typedef struct {
    const char *name;               /* printable ASCII, NUL-terminated, unique */
    qh_dtype dtype;
    int n_dims;                     /* 1..QH_GGUF_MAX_DIMS */
    int64_t dims[QH_GGUF_MAX_DIMS]; /* fastest first, each at least 1; unused ones are 1 */
    const unsigned char *data;      /* in the mapped file, aligned as the file says */
    uint64_t len_bytes;
    uint64_t offset;                /* of data in its file */
    int shard;
} qh_gguf_tensor;

/* path: a .gguf file, or the first shard of a split model (NAME-00001-of-000NN.gguf). */
qh_status qh_gguf_open(qh_gguf **out, const char *path, qh_err *err);
/* The same over bytes in memory, which stay the caller's and must outlive *out. name stands for
 * the file in messages. A split model is refused. */
qh_status qh_gguf_open_bytes(qh_gguf **out, const char *name, const void *data, size_t len_bytes,
                             qh_err *err);
void      qh_gguf_close(qh_gguf *g);                            /* NULL is fine */

const char *qh_gguf_path(const qh_gguf *g);
int         qh_gguf_version(const qh_gguf *g);                  /* 2 or 3 */
int         qh_gguf_n_shards(const qh_gguf *g);
uint64_t    qh_gguf_file_bytes(const qh_gguf *g);               /* of all shards */
qh_slice    qh_gguf_meta_bytes(const qh_gguf *g);               /* header to end of directory, first shard */

int                   qh_gguf_n_tensors(const qh_gguf *g);
const qh_gguf_tensor *qh_gguf_tensor_at(const qh_gguf *g, int i);       /* in file order */
const qh_gguf_tensor *qh_gguf_find_tensor(const qh_gguf *g, const char *name);  /* NULL: none */

int               qh_gguf_n_keys(const qh_gguf *g);
const qh_gguf_kv *qh_gguf_kv_at(const qh_gguf *g, int i);       /* in file order */
const qh_gguf_kv *qh_gguf_find(const qh_gguf *g, const char *key);      /* NULL: none */
const char       *qh_gguf_type_name(qh_gguf_type t);            /* "u32", "string" ... */

/* Typed values of required keys. QH_ENOTFOUND: no such key; QH_EFORMAT: another type, or out of
 * range. Both name file, key and what was expected. *out is written on success only, so a caller
 * with a default asks qh_gguf_find first. */
qh_status qh_gguf_int(const qh_gguf *g, const char *key, int64_t min, int64_t max, int64_t *out,
                      qh_err *err);                             /* any integer type */
qh_status qh_gguf_float(const qh_gguf *g, const char *key, double min, double max, double *out,
                        qh_err *err);                           /* f32 or f64; never NaN */
qh_status qh_gguf_bool(const qh_gguf *g, const char *key, bool *out, qh_err *err);
qh_status qh_gguf_string(const qh_gguf *g, const char *key, qh_slice *out, qh_err *err);
/* An array of items of that type; integer types other than the named one are not accepted. */
qh_status qh_gguf_array(const qh_gguf *g, const char *key, qh_gguf_type item_type,
                        int64_t min_items, int64_t max_items, const qh_gguf_kv **out, qh_err *err);

/* A string of the file, fit for a message: printable ASCII, at most 40 characters of it. */
typedef struct {
    char text[44];
} qh_gguf_shown;
qh_gguf_shown qh_gguf_show(qh_slice s);

/* The items as they stand in the file: what follows the type, and for an array its length. */
qh_slice qh_gguf_kv_bytes(const qh_gguf_kv *kv);

/* Walk the items of an entry. */
typedef struct {
    qh_gguf_type type;
    union {
        uint64_t u;                 /* U8 .. U64 */
        int64_t i;                  /* I8 .. I64; for U64 above its range: u only */
        double f;                   /* F32, F64 */
        bool b;
        qh_slice s;                 /* STRING; may hold any bytes */
        qh_gguf_kv array;           /* ARRAY in an array; key is the outer one's */
    } v;
} qh_gguf_item;

typedef struct {
    const char *key;
    const unsigned char *next;
    qh_gguf_type type;
    int64_t n_left;
} qh_gguf_iter;

qh_gguf_iter qh_gguf_items(const qh_gguf_kv *kv);
bool         qh_gguf_next(qh_gguf_iter *it, qh_gguf_item *out);  /* false: at the end */
