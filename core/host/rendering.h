/* rendering.h - chat templates outside a server: messages in, prompt out. Thread: one. */
#pragma once
#include "base/err.h"
#include "model/model.h"
#include "text/tokenizer.h"
#include <jansson.h>

typedef struct qh_renderer qh_renderer;

qh_status qh_renderer_new(qh_renderer **out, qh_err *err);
void      qh_renderer_free(qh_renderer *r);     /* NULL is fine */

/* vars: {template, messages, tools?, add_generation_prompt?, extra variables}; *out: {text, segments},
 * segments being [text, may hold special tokens] pairs. QH_ESCRIPT: what the template refused. */
qh_status qh_renderer_render(qh_renderer *r, const json_t *vars, json_t **out, qh_err *err);

/* Fill in the model's own: template (if none is given), bos_token, eos_token. QH_ENOTFOUND: no template. */
qh_status qh_renderer_add_model(json_t *vars, const qh_model *m, qh_err *err);

/* Render and tokenize: what came from messages never becomes a special token. */
qh_status qh_renderer_encode(qh_renderer *r, const json_t *vars, const qh_tokenizer *t, qh_tokens *out, qh_err *err);
