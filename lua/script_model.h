/* script_model.h - a model written in Lua, for tests: a file says what comes next.
 *
 *     return {
 *       -- the rest of the text, "" or nil: the end; or weights by byte: { a = 0.7, [""] = 0.3 }
 *       next = function(text) return "what follows" end,
 *       -- or, in place of next, the assistant's whole turn
 *       reply = function(prompt) return "an answer" end,
 *       rate = 50,             -- tokens a second of each stream; nil: as fast as it goes
 *       prefill_rate = 1000,   -- prompt tokens a second; nil
 *       ctx = 4096,            -- tokens of the longest sequence; nil: 8192
 *       template = "...",      -- Jinja; nil: ChatML
 *     }
 *
 * A token is a byte, or one of three control tokens, which the text shows by name. `reply` is
 * given the text up to the last "<|im_start|>assistant\n". The file has the globals of any
 * script and may not wait.
 * Thread: one at a time; open and use may be on different threads. */
#pragma once
#include "base/err.h"
#include "text/vocab.h"

/* ids below are bytes */
enum { QH_SCRIPT_END = 256, QH_SCRIPT_IM_START = 257, QH_SCRIPT_IM_END = 258 };

typedef struct qh_script_model qh_script_model;

typedef struct {
    double rate, prefill_rate;      /* 0: not paced */
    int n_ctx;
    const char *chat_template;      /* the model's */
} qh_script_model_facts;

qh_status qh_script_model_open(qh_script_model **out, const char *path, qh_err *err);
void      qh_script_model_close(qh_script_model *m);    /* NULL is fine */
qh_script_model_facts qh_script_model_get_facts(const qh_script_model *m);

/* What may follow tokens[0..n): up to max ids with their weights. QH_ESCRIPT: what the script
 * raised. */
qh_status qh_script_model_next(qh_script_model *m, const qh_token *tokens, int n, qh_token *ids,
                               float *weights, int max, int *n_out, qh_err *err);
