/* gguf_writer.c - see gguf_writer.h
 *
 * Format: ggml's docs/gguf.md. Data begins at, and every tensor takes, a multiple of ALIGNMENT. */
#include "model/gguf_writer.h"
#include "base/mem.h"
#include "base/str.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { ALIGNMENT = 32 };

struct qh_gguf_writer {
    char *path, *part;
    FILE *file;
    qh_str keys, tensors;           /* as they will stand in the file */
    uint64_t n_keys, n_tensors;
    uint64_t *lens;                 /* [n_tensors] bytes of each tensor's data */
    uint64_t offset;                /* of the next tensor named */
    uint64_t current, n_written;    /* tensor at work, and bytes of it so far */
};

static qh_status io_fail(const qh_gguf_writer *w, const char *what, qh_err *err)
{
    return qh_fail(err, QH_EIO, "%s: cannot %s: %s", w->part, what, strerror(errno));
}

qh_status qh_gguf_writer_new(qh_gguf_writer **out, const char *path, qh_err *err)
{
    *out = NULL;
    qh_gguf_writer *w = qh_new0(qh_gguf_writer);
    qh_str part = {0};
    qh_str_appendf(&part, "%s.part", path);
    w->path = qh_strdup(path);
    w->part = qh_strdup(qh_str_z(&part));
    qh_str_deinit(&part);
    w->file = fopen(w->part, "wb");
    if (!w->file) {
        qh_status st = io_fail(w, "create it", err);
        qh_gguf_writer_free(w);
        return st;
    }
    *out = w;
    return QH_OK;
}

void qh_gguf_writer_free(qh_gguf_writer *w)
{
    if (!w) return;
    if (w->file) {
        fclose(w->file);
        unlink(w->part);
    }
    qh_str_deinit(&w->keys);
    qh_str_deinit(&w->tensors);
    qh_free(w->lens);
    qh_free(w->path);
    qh_free(w->part);
    qh_free(w);
}

/* ---- header and directory ---- */

static void put_u32(qh_str *s, uint32_t v) { qh_str_append(s, (const char *)&v, sizeof v); }
static void put_u64(qh_str *s, uint64_t v) { qh_str_append(s, (const char *)&v, sizeof v); }

static void put_name(qh_str *s, const char *name)
{
    put_u64(s, strlen(name));
    qh_str_append_z(s, name);
}

void qh_gguf_writer_key(qh_gguf_writer *w, const qh_gguf_kv *kv)
{
    put_name(&w->keys, kv->key);
    put_u32(&w->keys, kv->type);
    if (kv->type == QH_GGUF_ARRAY) {
        put_u32(&w->keys, kv->item_type);
        put_u64(&w->keys, (uint64_t)kv->n_items);
    }
    const qh_slice bytes = qh_gguf_kv_bytes(kv);
    qh_str_append(&w->keys, bytes.data, bytes.len);
    w->n_keys++;
}

void qh_gguf_writer_u32(qh_gguf_writer *w, const char *key, uint32_t v)
{
    put_name(&w->keys, key);
    put_u32(&w->keys, QH_GGUF_U32);
    put_u32(&w->keys, v);
    w->n_keys++;
}

static uint64_t padded(uint64_t n) { return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

void qh_gguf_writer_tensor(qh_gguf_writer *w, const qh_gguf_tensor *like, qh_dtype dtype)
{
    put_name(&w->tensors, like->name);
    put_u32(&w->tensors, (uint32_t)like->n_dims);
    uint64_t len = qh_dtype_row_bytes(dtype, like->dims[0]);
    for (int i = 0; i < like->n_dims; i++) {
        put_u64(&w->tensors, (uint64_t)like->dims[i]);
        if (i) len *= (uint64_t)like->dims[i];
    }
    put_u32(&w->tensors, dtype);
    put_u64(&w->tensors, w->offset);
    w->lens = qh_realloc(w->lens, (w->n_tensors + 1) * sizeof *w->lens);
    w->lens[w->n_tensors++] = len;
    w->offset += padded(len);
}

static qh_status put(qh_gguf_writer *w, const void *data, size_t len, qh_err *err)
{
    return fwrite(data, 1, len, w->file) == len ? QH_OK : io_fail(w, "write to it", err);
}

static qh_status pad(qh_gguf_writer *w, uint64_t len, qh_err *err)
{
    static const char zeros[ALIGNMENT];
    return put(w, zeros, (size_t)(padded(len) - len), err);
}

qh_status qh_gguf_writer_begin(qh_gguf_writer *w, qh_err *err)
{
    qh_str head = {0};
    qh_str_append_z(&head, "GGUF");
    put_u32(&head, 3);
    put_u64(&head, w->n_tensors);
    put_u64(&head, w->n_keys);
    const uint64_t len = head.len + w->keys.len + w->tensors.len;
    qh_status st = put(w, head.data, head.len, err);
    if (!st) st = put(w, w->keys.data, w->keys.len, err);
    if (!st) st = put(w, w->tensors.data, w->tensors.len, err);
    if (!st) st = pad(w, len, err);
    qh_str_deinit(&head);
    return st;
}

/* ---- data ---- */

qh_status qh_gguf_writer_data(qh_gguf_writer *w, const void *data, size_t len_bytes, qh_err *err)
{
    qh_assert(w->current < w->n_tensors && len_bytes <= w->lens[w->current] - w->n_written);
    qh_status st = put(w, data, len_bytes, err);
    w->n_written += len_bytes;
    if (st || w->n_written < w->lens[w->current]) return st;
    st = pad(w, w->n_written, err);
    w->n_written = 0;
    w->current++;
    return st;
}

qh_status qh_gguf_writer_finish(qh_gguf_writer *w, qh_err *err)
{
    if (w->current < w->n_tensors) return qh_fail(err, QH_EINVAL, "%s: data of a tensor is missing", w->part);
    if (fflush(w->file) || fsync(fileno(w->file))) return io_fail(w, "write to it", err);
    FILE *file = w->file;
    w->file = NULL;
    if (fclose(file)) return io_fail(w, "close it", err);
    if (rename(w->part, w->path)) return io_fail(w, "rename it", err);
    return QH_OK;
}
