/* lua_private.h - the inside of the Lua layer, shared by lua/ and lua/bind only. */
#pragma once
#include "base/metric.h"
#include "base/workers.h"
#include "lua/bind/bind.h"
#include "lua/host_api.h"
#include "lua/parts.h"
#include "lua/policies.h"
#include "lua/store.h"
#include "lua/vm/budget.h"
#include "lua/vm/task.h"

typedef struct qh_app qh_app;
typedef struct qh_generation qh_generation;         /* bind/generation.h */
typedef struct qh_watcher qh_watcher;               /* watch.h */
typedef struct qh_topic qh_topic;                   /* bind/topic.c */
typedef struct qh_fetcher qh_fetcher;               /* net/fetch.h */
typedef struct qh_background qh_background;         /* bind/background.h */

/* A model under the name that apps know it by. */
typedef struct qh_named_model {
    struct qh_named_model *next;
    char *name;
    qh_lua_model model;
} qh_named_model;

enum { QH_GENERATION_BUCKETS = 256 };

/* What the loads so far came to, for the log and GET /qhost/reload: reload.c */
typedef struct {
    int generation;                                 /* 0: nothing of this kind yet */
    double at, ms;                                  /* seconds since 1970; of the load */
    char *message, *file, *excerpt;                 /* of a failure; file and excerpt may be NULL */
    int line;                                       /* 0: none is known */
    qh_str added, removed, changed;                 /* of a success: lists, "a, b" as JSON strings */
} qh_load_story;

typedef struct qh_lua_stopping qh_lua_stopping;     /* stop.c */

struct qh_lua {
    qh_lua_opts opts;                               /* strings owned */
    char *app_dir;
    qh_budget *budget;
    qh_workers *workers;
    qh_waker *worker_waker;
    qh_watcher *watcher;
    qh_policies *policies;                          /* the thread; NULL until a job has a policy */
    qh_stores *stores;
    qh_lua_stopping *stopping;                      /* NULL: not yet */
    qh_named_model *models;                         /* ever resolved; in order of resolution */
    qh_app *apps;                                   /* alive, newest first */
    qh_app *serving, *loading;
    int last_generation;
    bool is_load_wanted; /* a change came while too many generations were alive */
    double pending_since;                           /* seconds since 1970 */
    qh_load_story last_ok, last_failure;
    bool is_failed;                                 /* the newest load is last_failure */
    qh_fetcher *fetcher;                            /* made by the first fetch */
    struct qh_shareds *shareds;                     /* shared.h */
    qh_topic *topics;                               /* with listeners */
    int n_fetches;                                  /* at work */
    qh_generation *generations[QH_GENERATION_BUCKETS]; /* by job id */
};

/* One load of the app. */
struct qh_app {
    qh_lua *lua;
    qh_app *next;
    int number;
    qh_vm *vm;
    int64_t start_us;                               /* of the load */
    qh_task *load;                                  /* NULL: over */
    int app_ref, dispatch_ref, fail_ref;            /* registry */
    qh_parts parts;
    qh_named_model **models;                        /* named by this app, in order */
    int n_models;
    qh_background *backgrounds;                     /* newest first */
    int n_backgrounds;
    struct qh_request *requests;                    /* at work, newest first */
    int n_requests;                                 /* and background tasks that they started */
    bool has_cors;
    bool is_retired;                                /* freed when n_requests is zero */
    qh_timer *retire_timer;                         /* its requests are cancelled when it fires */
};

qh_app *qh_app_of(lua_State *L);
qh_task_limits qh_app_limits(const qh_app *app);    /* of a request */

/* stop.c */
void qh_stop_forget(qh_lua *lua);                   /* after its VM is gone; it may be over already */

/* request.c */
void qh_request_start(qh_app *app, qh_exchange *x);
void qh_requests_cancel(qh_app *app, const char *code);     /* all of them; clients are told code */
int  qh_requests_count(const qh_app *app, int *n_all);      /* those whose reply has begun */

/* app.c */
qh_status qh_app_new(qh_app **out, qh_lua *lua, qh_err *err);
/* qh_lua_loaded follows, perhaps before this returns. */
qh_status qh_app_load(qh_app *app, qh_err *err);
void      qh_app_free(qh_app *app);                 /* not from inside one of its tasks */
/* reload.c */
void      qh_reload_note_ok(qh_lua *lua, qh_app *app, const qh_app *old);
/* app NULL: it could not even begin */
void      qh_reload_note_failure(qh_lua *lua, const qh_app *app, const char *message);
void      qh_reload_note_pending(qh_lua *lua);
void      qh_load_story_deinit(qh_load_story *s);
/* host_api.c */
/* A load is over. err NULL: the app is ready to serve. */
void      qh_lua_loaded(qh_lua *lua, qh_app *app, const qh_err *err);
void      qh_lua_request_over(qh_app *app);         /* n_requests went down */

/* The model of that name that the app may use, or NULL. */
qh_named_model *qh_lua_find_model(qh_lua *lua, const char *name);
