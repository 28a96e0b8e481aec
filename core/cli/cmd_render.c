/* cmd_render.c - qhost render: messages to prompt text, over JSON Lines */
#include "base/mem.h"
#include "cli/cmd.h"
#include "cli/jsonl.h"
#include "cli/opts.h"
#include "host/models.h"
#include "host/rendering.h"
#include "model/model.h"

typedef struct {
    qh_renderer *renderer;
    qh_model *model;                /* or NULL */
} render_arg;

static qh_status render_line(void *arg, const json_t *in, json_t **out, qh_err *err)
{
    render_arg *a = arg;
    json_t *vars = json_copy((json_t *)in), *rendered = NULL;
    qh_status st = QH_OK;
    if (a->model) st = qh_renderer_add_model(vars, a->model, err);
    else if (!json_is_string(json_object_get(vars, "template")))
        st = qh_fail(err, QH_EINVAL, "'template' is missing, and no MODEL was named");
    if (!st) st = qh_renderer_render(a->renderer, vars, &rendered, err);
    if (!st) *out = json_pack("{s:O}", "text", json_object_get(rendered, "text"));
    json_decref(rendered);
    json_decref(vars);
    return st;
}

int qh_cmd_render(int argc, char **argv)
{
    static const qh_opt_spec SPEC = {
        "qhost render [MODEL] < requests.jsonl",
        "Reads JSON Lines on stdin, writes one line for each on stdout.\n"
        "  in:  {\"template\": string        Jinja source; default: the model's\n"
        "        \"messages\": [{\"role\": string, \"content\": string, ...}, ...],\n"
        "        \"tools\": [...], \"add_generation_prompt\": bool, ...}    every other field is a variable too\n"
        "  out: {\"text\": string} or {\"error\": string}\n"
        "With a MODEL, bos_token and eos_token are its own unless given.",
        NULL, 0, 1};
    const char *args[argc];
    int n_args, rc = qh_opts_parse(&SPEC, argc, argv, args, &n_args);
    if (rc >= 0) return rc;

    qh_err err = {0};
    char *path = NULL;
    render_arg a = {0};
    qh_status st = qh_renderer_new(&a.renderer, &err);
    if (!st && n_args) st = qh_models_find(&path, args[0], &err);
    if (!st && path) st = qh_model_open(&a.model, path, &err);
    if (!st) rc = qh_jsonl_run(render_line, &a);
    qh_model_close(a.model);
    qh_renderer_free(a.renderer);
    qh_free(path);
    return st ? qh_cmd_fail(&err) : rc;
}
