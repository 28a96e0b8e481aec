/* scripted_model.c - see scripted_model.h */
#include "host/scripted_model.h"
#include "base/mem.h"
#include "lua/script_model.h"
#include "scripted/scripted.h"
#include <string.h>

_Static_assert((int)QH_SCRIPT_END == (int)QH_SCRIPTED_EOS && (int)QH_SCRIPT_IM_START == (int)QH_SCRIPTED_IM_START &&
                   (int)QH_SCRIPT_IM_END == (int)QH_SCRIPTED_IM_END,
               "the file's tokens are the backend's");

const char *qh_scripted_path(const char *model)
{
    static const char PREFIX[] = "scripted:";
    return strncmp(model, PREFIX, sizeof PREFIX - 1) == 0 ? model + sizeof PREFIX - 1 : NULL;
}

static qh_status ask_file(void *arg, const qh_token *tokens, int n, qh_scripted_next *out, qh_err *err)
{
    return qh_script_model_next(arg, tokens, n, out->ids, out->weights, QH_SCRIPTED_MAX_NEXT, &out->n, err);
}

static void close_file(void *arg) { qh_script_model_close(arg); }

qh_status qh_scripted_model_open(qh_scripted_model *out, const char *path, const qh_backend_limits *limits, qh_err *err)
{
    *out = (qh_scripted_model){0};
    qh_script_model *m;
    qh_status st = qh_script_model_open(&m, path, err);
    if (st) return st;
    qh_script_model_facts facts = qh_script_model_get_facts(m);
    qh_script script = {.next = ask_file, .close = close_file, .arg = m, .steps_per_s = facts.rate, .prefill_per_s = facts.prefill_rate};
    qh_backend_limits l = *limits;
    l.max_context = facts.n_ctx;
    st = qh_scripted_open(&out->backend, &script, &l, err);
    if (st) {
        qh_script_model_close(m);
        return st;
    }
    qh_scripted_desc(&out->desc, facts.n_ctx);
    out->chat_template = facts.chat_template ? qh_strdup(facts.chat_template) : NULL;
    st = qh_tokenizer_new(&out->tokenizer, out->backend->ops->caps(out->backend)->vocab, err);
    if (st) {
        qh_backend_close(out->backend);
        qh_free(out->chat_template);
        *out = (qh_scripted_model){0};
    }
    return st;
}
