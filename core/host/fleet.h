/* fleet.h - the models of a running host: loaded on a worker when an app first names them.
 *
 * A name stands for a model by the host's own list ("NAME=MODEL"), else it is looked up as `qhost run`
 * would. Names that stand for the same file with the same options share one loaded model.
 * Thread: the loop thread; loading runs on a worker. */
#pragma once
#include "host/loaded.h"
#include "lua/host_api.h"
#include "net/loop.h"

typedef struct qh_fleet qh_fleet;

typedef struct {
    const char *const *models;      /* [n_models] "NAME=MODEL", or "MODEL" for every other name; borrowed */
    int n_models;
    qh_loaded_options load;         /* for all; its model and on_events are not looked at */
    void (*on_events)(void *arg, qh_engine *engine);    /* an engine's events can be polled */
    void *arg;
} qh_fleet_options;

qh_status qh_fleet_new(qh_fleet **out, qh_loop *loop, const qh_fleet_options *opt, qh_err *err);
/* Waits for a load under way; closes every model. After the Lua layer is gone. NULL is fine. */
void      qh_fleet_free(qh_fleet *f);
/* Answer q with the model of that name, loading it first if need be. */
void      qh_fleet_resolve(qh_fleet *f, const char *name, qh_lua_question *q);
bool      qh_fleet_is_failed(const qh_fleet *f);    /* an engine lost its device */
