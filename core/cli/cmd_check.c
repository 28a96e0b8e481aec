/* cmd_check.c - qhost check: load an app without serving it */
#include "base/mem.h"
#include "cli/cmd.h"
#include "cli/opts.h"
#include "host/models.h"
#include "lua/host_api.h"
#include "model/model.h"
#include "net/egress.h"
#include <stdio.h>

typedef struct opened {
    struct opened *next;
    qh_model *model;
} opened;

/* A model's file is opened for its tokenizer and template; nothing is computed. */
static void resolve_model(void *arg, const char *name, qh_lua_question *q)
{
    opened **all = arg, *o = qh_new0(opened);
    char *path = NULL;
    qh_err err = {0};
    qh_status st = qh_models_find(&path, name, &err);
    if (!st) st = qh_model_open(&o->model, path, &err);
    qh_free(path);
    if (st) {
        qh_free(o);
        qh_lua_answer(q, NULL, &err);
        return;
    }
    o->next = *all;
    *all = o;
    qh_lua_model m = {.tokenizer = qh_model_tokenizer(o->model), .arch = qh_model_desc(o->model)->arch,
                      .n_ctx = qh_model_desc(o->model)->n_ctx_train, .chat_template = qh_model_chat_template(o->model),
                      .path = qh_model_path(o->model)};
    qh_lua_answer(q, &m, NULL);
}

int qh_cmd_check(int argc, char **argv)
{
    qh_opt_list allow_net = {.n = 0};
    const qh_opt opts[] = {
        {"allow-net", 0, QH_OPT_LIST, &allow_net, 0, 0, "HOST", "as for serve: looked at, never reached. May be repeated"},
        {0}};
    const qh_opt_spec spec = {
        "qhost check APP.lua [options]",
        "Load an app as serve would, with its models' files but without computing anything, and list its\n"
        "routes. An app that does not load is an error with file and line, and exit code 1.", opts, 1, 1};
    const char *args[argc];
    int n_args, rc = qh_opts_parse(&spec, argc, argv, args, &n_args);
    if (rc >= 0) return rc;
    char *routes = NULL;
    opened *all = NULL;
    qh_err err = {0};
    qh_status st = QH_OK;
    for (int i = 0; i < allow_net.n && !st; i++) st = qh_egress_check_rule(allow_net.items[i], &err);
    if (!st) st = qh_lua_check(args[0], NULL, resolve_model, &all, &routes, &err);
    if (!st) fputs(routes, stdout);
    qh_free(routes);
    while (all) {
        opened *next = all->next;
        qh_model_close(all->model);
        qh_free(all);
        all = next;
    }
    return st ? qh_cmd_fail(&err) : QH_EXIT_OK;
}
