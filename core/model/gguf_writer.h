/* gguf_writer.h - writes a GGUF v3 file piece by piece; it appears whole or not at all.
 *
 *   new -> keys and tensors, in any order -> begin -> the tensors' data, in their order -> finish
 *
 * The bytes go to PATH.part, which finish renames; free without finish removes it. After a failure
 * only free is allowed. Thread: one at a time. */
#pragma once
#include "model/gguf.h"

typedef struct qh_gguf_writer qh_gguf_writer;

qh_status qh_gguf_writer_new(qh_gguf_writer **out, const char *path, qh_err *err);
void      qh_gguf_writer_free(qh_gguf_writer *w);               /* NULL is fine */

void      qh_gguf_writer_key(qh_gguf_writer *w, const qh_gguf_kv *kv);  /* a copy, of any type */
void      qh_gguf_writer_u32(qh_gguf_writer *w, const char *key, uint32_t v);
/* like gives name and shape; dtype the type that its data will have. */
void      qh_gguf_writer_tensor(qh_gguf_writer *w, const qh_gguf_tensor *like, qh_dtype dtype);
/* All keys and tensors were named: write header and directory. */
qh_status qh_gguf_writer_begin(qh_gguf_writer *w, qh_err *err);
/* The next bytes of the tensor at work; its last byte moves on to the next tensor. */
qh_status qh_gguf_writer_data(qh_gguf_writer *w, const void *data, size_t len_bytes, qh_err *err);
/* QH_EINVAL: data is missing. The file is on disk under its name when this returns QH_OK. */
qh_status qh_gguf_writer_finish(qh_gguf_writer *w, qh_err *err);
