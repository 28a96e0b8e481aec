/* scripted_model.h - "scripted:FILE.lua" as a model: a Lua file that says what comes next, for tests.
 *
 * Joins lua/script_model.h, which evaluates the file, to kernels/scripted, which is a backend. */
#pragma once
#include "kernels/backend.h"
#include "text/tokenizer.h"

typedef struct {
    qh_backend *backend;            /* owns the evaluated file */
    qh_tokenizer *tokenizer;        /* over the backend's bytes; freed by the caller after the backend is in use */
    qh_desc desc;
    char *chat_template;            /* owned by the caller */
} qh_scripted_model;

/* The path of "scripted:FILE", or NULL: another kind of model. */
const char *qh_scripted_path(const char *model);
/* limits: n_pages, max_rows, max_seqs and max_outputs count; the context is the file's. */
qh_status qh_scripted_model_open(qh_scripted_model *out, const char *path, const qh_backend_limits *limits, qh_err *err);
