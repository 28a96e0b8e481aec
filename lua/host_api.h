/* host_api.h - the Lua layer as core/host sees it: load an app, hand it requests, swap it when
 * its files change.
 *
 *     qh_lua_new     state and watchdog; nothing runs yet
 *     qh_lua_load    read and run the app file; resolve_model is asked for each name it gives;
 *                    then on_app
 *     qh_lua_on_request   each request that the host does not answer itself
 *     qh_lua_on_events    each time an engine's wakeup fired
 *     qh_lua_free    before the engines and models that were resolved
 *
 * A generation is one load of the app in a VM of its own. A request stays on the generation it
 * began with; the newest good one takes the new requests; an old one is freed when its last
 * request ends, which is cancelled after retire_us. At most three generations are alive; a further
 * change waits until one is gone. A failed load leaves the running generation as it is.
 * Thread: the loop thread, all of it. */
#pragma once
#include "base/err.h"
#include "engine/engine.h"
#include "net/loop.h"
#include "net/server.h"

typedef struct qh_lua qh_lua;

/* A model as scripts may use it. All of it is borrowed and lives until after qh_lua_free. */
typedef struct {
    qh_engine *engine;
    const qh_tokenizer *tokenizer;
    const char *arch;               /* "llama" */
    int n_ctx;                      /* tokens of the longest sequence */
    const char *chat_template;      /* Jinja source; NULL: none */
    const char *path;               /* NULL: none */
} qh_lua_model;

typedef struct qh_lua_question qh_lua_question;
/* Answer what resolve_model asked, once: m, or NULL and why not. Copied. The load may be over
 * already. */
void qh_lua_answer(qh_lua_question *q, const qh_lua_model *m, const qh_err *err);

typedef struct {
    const char *app_path;           /* copied */
    const char *lib_dir;            /* the library from here, not the built-in one; NULL. Copied */
    const char *data_dir;           /* of qh.store; made when it is needed. NULL: none. Copied */
    qh_loop *loop;
    bool is_watching;               /* load again when a file that the app uses changes */
    bool is_dev;                    /* tracebacks in replies */
    bool is_test;                   /* models, fetch and the clock are doubles: qh_lua_test */
    int64_t cpu_us, slice_us;       /* of a request between two waits; 0: 100 ms, 2 ms */
    int64_t retire_us;              /* a replaced app ends its requests within it; 0: 10 min */
    const char *const *allow_net;   /* hosts beside loopback that scripts may reach (net/egress.h); borrowed */
    int n_allow_net;
    int64_t heap_bytes;             /* of a request; 0: 64 MiB. A VM may hold four times as much */
    /* An app that loads names a model for the first time: answer now or later. NULL: there are
     * none. */
    void (*resolve_model)(void *arg, const char *name, qh_lua_question *q);
    /* A load is over. err NULL: this generation serves from now on. Else its message has file
     * and line. */
    void (*on_app)(void *arg, int generation, const qh_err *err);
    void *arg;
} qh_lua_opts;

qh_status qh_lua_new(qh_lua **out, const qh_lua_opts *opts, qh_err *err);
/* Ends what runs, clients get 503 or a cut stream. NULL is fine. */
void      qh_lua_free(qh_lua *lua);

/* Begin a load; on_app follows, perhaps before this returns. One that is under way is given up. */
void      qh_lua_load(qh_lua *lua);
/* Takes over the reference. 503 while there is no generation. */
void      qh_lua_on_request(qh_lua *lua, qh_exchange *x);
/* Whether x is a browser's question before a request of another origin, and the app answers those
 * itself, before any of its handlers: such a question carries no key. */
bool      qh_lua_takes_preflight(const qh_lua *lua, const qh_exchange *x);
/* The engine has events. An engine that no model of ours uses is drained. */
void      qh_lua_on_events(qh_lua *lua, qh_engine *engine);

/* Run the app's "stop" hooks, some seconds at most, then done(arg), perhaps before this returns. */
void      qh_lua_stop(qh_lua *lua, void (*done)(void *arg), void *arg);

typedef struct {
    int generation;                 /* that serves; 0: none yet */
    int n_generations;              /* alive */
    int n_requests;                 /* at work, over all generations */
    int n_tasks;                    /* these, their children and what runs in the background */
    size_t heap_bytes;              /* over all VMs */
    bool is_loading;
    const char *last_error;         /* of the newest load; NULL: it succeeded */
} qh_lua_state;
qh_lua_state qh_lua_get_state(const qh_lua *lua);
/* What GET /qhost/reload answers: generations and who holds them, what waits, the last loads. */
void         qh_lua_write_reload(const qh_lua *lua, qh_str *out);

typedef struct {
    const char *app_path, *lib_dir, *data_dir;  /* as in qh_lua_opts */
    const char *file;               /* of tests */
    const char *filter;             /* only tests with it in their name; NULL: all */
    double timeout_s;               /* of a test that gives none */
} qh_lua_test_opts;
typedef struct {
    int n_passed, n_failed, n_skipped;
    char *text;                     /* a line or more a test; the caller frees with qh_free */
} qh_lua_test_result;
/* Load the app with doubles of the world and run a file of tests in it: lua/qhost/test.lua. On failure,
 * when app or file do not load, out is zeroed. */
qh_status qh_lua_test(const qh_lua_test_opts *o, qh_lua_test_result *out, qh_err *err);

/* Load app_path without serving it. resolve_model as in qh_lua_opts; the models need no engine,
 * their tokenizers live until this returns. On success *routes is a list of lines "GET /x" and
 * "model NAME"; caller frees with qh_free. */
qh_status qh_lua_check(const char *app_path, const char *lib_dir,
                       void (*resolve_model)(void *arg, const char *name, qh_lua_question *q),
                       void *arg, char **routes, qh_err *err);
