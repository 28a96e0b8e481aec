/* lua_host.c - the least host that serves an app: a server, the Lua layer and scripted models.
 *
 *     lua_host APP.lua [--dev] [--cpu-ms N] [--heap-mb N] [--retire-ms N] [--pages N]
 *              [--data DIR] [--allow-net HOST] name=script.lua...
 *
 * Prints "port N" and serves until standard input ends or SIGTERM. Each line of input is a
 * command: "stats" prints what the engines and the Lua layer hold, as JSON. GET /qhost/reload is
 * answered as qhost serve does. A model named "slow..." is answered after 300 ms, so that a load
 * waits. */
#include "base/log.h"
#include "base/mem.h"
#include "scripted/scripted.h"
#include "lua/host_api.h"
#include "lua/script_model.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_MODELS = 8, MAX_RULES = 8, MAX_SEQS = 64 };

typedef struct {
    const char *name;
    qh_script_model *script;
    qh_engine *engine;
    qh_waker *waker;
    qh_desc desc;
    qh_vocab *vocab;
    qh_tokenizer *tokenizer;
} model;

typedef struct {
    qh_loop *loop;
    qh_server *server;
    qh_lua *lua;
    model models[MAX_MODELS];
    int n_models, n_pages;
    const char *rules[MAX_RULES];
    qh_timer *answer_timer;
    qh_lua_question *late;          /* answered by the timer */
    model *late_model;
} host;

static host H = {.n_pages = 512};

static void die(const char *what, const qh_err *err)
{
    fprintf(stderr, "lua_host: %s: %s\n", what, err ? err->msg : "");
    exit(1);
}

/* ---- models ---- */

static qh_status next_token(void *arg, const qh_token *tokens, int n, qh_scripted_next *out,
                            qh_err *err)
{
    model *m = arg;
    return qh_script_model_next(m->script, tokens, n, out->ids, out->weights, QH_SCRIPTED_MAX_NEXT,
                                &out->n, err);
}

static void on_events(void *arg)
{
    model *m = arg;
    if (H.lua) qh_lua_on_events(H.lua, m->engine);
}

static void open_model(model *m, const char *name, const char *path)
{
    qh_err err = {0};
    m->name = name;
    if (qh_script_model_open(&m->script, path, &err)) die(path, &err);
    qh_script_model_facts facts = qh_script_model_get_facts(m->script);
    qh_script script = {.next = next_token,
                        .arg = m,
                        .steps_per_s = facts.rate,
                        .prefill_per_s = facts.prefill_rate};
    qh_backend_limits limits = {.n_pages = H.n_pages,
                                .max_rows = 512,
                                .max_seqs = MAX_SEQS,
                                .max_outputs = MAX_SEQS,
                                .max_context = facts.n_ctx};
    qh_backend *be;
    if (qh_scripted_open(&be, &script, &limits, &err)) die(path, &err);
    qh_scripted_desc(&m->desc, facts.n_ctx);
    if (qh_tokenizer_new(&m->tokenizer, be->ops->caps(be)->vocab, &err)) die(path, &err);
    if (qh_waker_new(&m->waker, H.loop, on_events, m, &err)) die(path, &err);
    qh_engine_config cfg = {.max_seqs = MAX_SEQS,
                            .max_queued = 256,
                            .step_tokens = 512,
                            .n_pages = H.n_pages,
                            .on_events = qh_waker_wakeup(m->waker)};
    if (qh_engine_new(&m->engine, be, &m->desc, m->tokenizer, &cfg, &err)) die(path, &err);
}

static void answer(qh_lua_question *q, model *m)
{
    qh_script_model_facts facts = qh_script_model_get_facts(m->script);
    qh_lua_model l = {.engine = m->engine,
                      .tokenizer = m->tokenizer,
                      .arch = "scripted",
                      .n_ctx = facts.n_ctx,
                      .chat_template = facts.chat_template};
    qh_lua_answer(q, &l, NULL);
}

static void answer_late(void *arg)
{
    (void)arg;
    answer(H.late, H.late_model);
}

static void resolve(void *arg, const char *name, qh_lua_question *q)
{
    (void)arg;
    for (int i = 0; i < H.n_models; i++) {
        if (strcmp(H.models[i].name, name) != 0) continue;
        if (strncmp(name, "slow", 4) != 0) {
            answer(q, &H.models[i]);
            return;
        }
        H.late = q;
        H.late_model = &H.models[i];
        qh_timer_set(H.answer_timer, 300000);
        return;
    }
    qh_err err = {0};
    qh_fail(&err, QH_ENOTFOUND, "none of the %d models is called that", H.n_models);
    qh_lua_answer(q, NULL, &err);
}

/* ---- commands ---- */

static void print_stats(void)
{
    qh_lua_state s = qh_lua_get_state(H.lua);
    qh_server_counts c = qh_server_count(H.server);
    printf("{\"generation\":%d,\"generations\":%d,\"requests\":%d,\"tasks\":%d,\"heap\":%zu,\"conns\":%d,"
           "\"exchanges\":%d,\"failed\":%s,\"engines\":[",
           s.generation, s.n_generations, s.n_requests, s.n_tasks, s.heap_bytes, c.n_conns, c.n_exchanges,
           s.last_error ? "true" : "false");
    for (int i = 0; i < H.n_models; i++) {
        qh_engine_stats e;
        qh_engine_get_stats(H.models[i].engine, &e);
        printf("%s{\"running\":%d,\"queued\":%d,\"pages\":%d,\"free\":%d,\"cached\":%d,\"sampled\":"
               "%lld}",
               i ? "," : "", e.n_running, e.n_queued, e.n_pages_total, e.n_pages_free,
               e.n_pages_cached, (long long)e.n_sampled_tokens);
    }
    printf("]}\n");
    fflush(stdout);
}

static void stopped(void *arg)
{
    (void)arg;
    qh_loop_stop(H.loop);
}

static void on_input(void *arg, int what)
{
    (void)arg, (void)what;
    char buf[256];
    ssize_t n = read(0, buf, sizeof buf);
    if (n == 0) qh_lua_stop(H.lua, stopped, NULL);
    for (ssize_t i = 0; i < n; i++)
        if (buf[i] == '\n') print_stats();
}

static void on_signal(void *arg, int signo)
{
    (void)arg, (void)signo;
    qh_lua_stop(H.lua, stopped, NULL);
}

static void on_request(void *arg, qh_exchange *x)
{
    (void)arg;
    if (strcmp(qh_exchange_path(x), "/qhost/reload") != 0) {
        qh_lua_on_request(H.lua, x);
        return;
    }
    qh_str body = {0};
    qh_lua_write_reload(H.lua, &body);
    qh_exchange_reply(x, 200, NULL, 0, body.data, body.len);
    qh_exchange_unref(x);
    qh_str_deinit(&body);
}

int main(int argc, char **argv)
{
    qh_err err = {0};
    qh_lua_opts opts = {.is_watching = true, .resolve_model = resolve, .allow_net = H.rules};
    if (qh_loop_new(&H.loop, &err)) die("loop", &err);
    opts.loop = H.loop;
    for (int i = 1; i < argc; i++) {
        char *eq = strchr(argv[i], '=');
        if (strcmp(argv[i], "--dev") == 0) opts.is_dev = true;
        else if (strcmp(argv[i], "--cpu-ms") == 0 && i + 1 < argc)
            opts.cpu_us = atoi(argv[++i]) * 1000;
        else if (strcmp(argv[i], "--heap-mb") == 0 && i + 1 < argc)
            opts.heap_bytes = (int64_t)atoi(argv[++i]) << 20;
        else if (strcmp(argv[i], "--data") == 0 && i + 1 < argc) opts.data_dir = argv[++i];
        else if (strcmp(argv[i], "--retire-ms") == 0 && i + 1 < argc)
            opts.retire_us = (int64_t)atoi(argv[++i]) * 1000;
        else if (strcmp(argv[i], "--pages") == 0 && i + 1 < argc) H.n_pages = atoi(argv[++i]);
        else if (strcmp(argv[i], "--allow-net") == 0 && i + 1 < argc && opts.n_allow_net < MAX_RULES)
            H.rules[opts.n_allow_net++] = argv[++i];
        else if (eq && H.n_models < MAX_MODELS)
            *eq = 0, open_model(&H.models[H.n_models++], argv[i], eq + 1);
        else opts.app_path = argv[i];
    }
    if (!opts.app_path) die("usage: lua_host APP.lua [options] name=script.lua...", NULL);
    H.answer_timer = qh_timer_new(H.loop, answer_late, NULL);
    if (qh_lua_new(&H.lua, &opts, &err)) die("app", &err);
    qh_server_opts sopts = {.on_request = on_request, .no_access_log = true};
    if (qh_server_new(&H.server, H.loop, &sopts, &err)) die("server", &err);
    if (qh_server_listen(H.server, "127.0.0.1", 0, &err)) die("listen", &err);
    qh_watch *input;
    qh_signal *term;
    if (qh_watch_new(&input, H.loop, 0, QH_READABLE, on_input, NULL, &err)) die("input", &err);
    if (qh_signal_new(&term, H.loop, SIGTERM, on_signal, NULL, &err)) die("signal", &err);
    qh_lua_load(H.lua);
    printf("port %d\n", qh_server_port(H.server));
    fflush(stdout);
    qh_loop_run(H.loop);

    qh_server_stop(H.server);
    qh_watch_free(input);
    qh_signal_free(term);
    qh_timer_free(H.answer_timer);
    qh_lua_free(H.lua);
    H.lua = NULL;
    qh_server_free(H.server);
    for (int i = 0; i < H.n_models; i++) {
        model *m = &H.models[i];
        qh_engine_free(m->engine);
        qh_waker_free(m->waker);
        qh_tokenizer_free(m->tokenizer);
        qh_script_model_close(m->script);
    }
    qh_loop_free(H.loop);
    return 0;
}
