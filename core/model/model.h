/* model.h - an opened checkpoint: description, weights, tokenizer, template.
 *
 * Opening maps the file(s) and checks everything that later code relies on: shapes against the
 * description, types, ids; nothing is copied but names and the vocabulary. Immutable after open: any
 * thread. */
#pragma once
#include "base/err.h"
#include "model/arch.h"
#include "model/weights.h"
#include "text/tokenizer.h"

typedef struct qh_model qh_model;

/* path: a .gguf file, or the first shard of a split one (*-00001-of-000NN.gguf). */
qh_status qh_model_open(qh_model **out, const char *path, qh_err *err);
/* The same without description and weights: for files that hold a vocabulary only, and for
 * architectures that cannot be run. */
qh_status qh_model_open_text(qh_model **out, const char *path, qh_err *err);
void      qh_model_close(qh_model *m);                      /* NULL is fine */

const qh_desc      *qh_model_desc(const qh_model *m);       /* NULL after open_text */
const qh_weights   *qh_model_weights(const qh_model *m);    /* NULL after open_text */
const qh_tokenizer *qh_model_tokenizer(const qh_model *m);
const qh_vocab     *qh_model_vocab(const qh_model *m);      /* the tokenizer's */
const qh_gguf      *qh_model_gguf(const qh_model *m);       /* metadata and tensors, to show them */
const char         *qh_model_chat_template(const qh_model *m);  /* Jinja source, or NULL */
const char         *qh_model_name(const qh_model *m);           /* general.name when it is fit to show, else the file's stem */
const char         *qh_model_path(const qh_model *m);
uint64_t            qh_model_weight_bytes(const qh_model *m);   /* as stored */
/* A hash that keys caches: metadata, tensor table, and some bytes of every tensor, so that two
 * fine-tunes with the same metadata differ. */
uint64_t            qh_model_id(const qh_model *m);
