/* host.c - see host.h */
#include "host/host.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "host/data_dir.h"
#include "host/gate.h"
#include <signal.h>
#include <string.h>
#include <unistd.h>

enum { HEALTH_PERIOD_US = 200000 };

typedef struct {
    const qh_host_options *opt;
    qh_loop *loop;
    qh_server *server;
    qh_fleet *fleet;
    qh_lua *lua;
    qh_gate gate;
    qh_signal *on_term, *on_int, *on_hup;
    qh_timer *health, *drain_limit;
    int64_t begun_us;
    qh_status status;               /* of the first load */
    qh_err *err;
} host;

/* ---- requests and events ---- */

static void on_request(void *arg, qh_exchange *x)
{
    host *h = arg;
    if (!qh_gate_answers(&h->gate, x)) qh_lua_on_request(h->lua, x);
}

static void on_events(void *arg, qh_engine *engine)
{
    host *h = arg;
    if (h->lua) qh_lua_on_events(h->lua, engine);
}

static void resolve_model(void *arg, const char *name, qh_lua_question *q) { qh_fleet_resolve(((host *)arg)->fleet, name, q); }

static void on_app(void *arg, int generation, const qh_err *err)
{
    host *h = arg;
    bool is_first = h->gate.state == QH_GATE_LOADING;
    if (err && is_first) {
        h->status = qh_fail(h->err, err->status, "%s", err->msg);
        qh_loop_stop(h->loop);
        return;
    }
    if (err) return;                            /* the Lua layer told what and where */
    qh_info(is_first ? "serve.ready" : "reload.done", "generation=%d", generation);
    if (!is_first) return;
    qh_info("serve.started", "seconds=%.3f", (double)(qh_now_us() - h->begun_us) / 1e6);
    h->gate.state = QH_GATE_READY;
}

/* A lost device is seen by the engine's thread; the gate asks for it now and then. */
static void look_at_health(void *arg)
{
    host *h = arg;
    if (h->gate.state == QH_GATE_READY && qh_fleet_is_failed(h->fleet)) {
        qh_error("serve.failed", "reason=\"an engine lost its device\"");
        h->gate.state = QH_GATE_FAILED;
    }
    qh_timer_set(h->health, HEALTH_PERIOD_US);
}

/* Certificates are renewed while the service runs. A broken pair leaves the old one in use. */
static void reload_tls(void *arg, int signo)
{
    host *h = arg;
    (void)signo;
    qh_err err = {0};
    if (qh_server_reload_tls(h->server, &err)) qh_error("tls.reload_failed", "error=\"%s\"", err.msg);
    else qh_info("tls.reloaded", "cert=%s", h->opt->tls_cert);
}

/* ---- the end ---- */

static void stopped(void *arg) { qh_loop_stop(((host *)arg)->loop); }

/* Requests are over, or their time is. */
static void drained(void *arg)
{
    host *h = arg;
    qh_lua_stop(h->lua, stopped, h);
}

/* A load cannot be interrupted and may take minutes. Nothing is at work yet and nothing has to be
 * saved, so the process just ends; its last words are written first. */
static void stop_loading(int signo)
{
    qh_info("serve.stop", "signal=%d reason=\"stopped while loading\"", signo);
    qh_log_end();
    _exit(1);
}

static void on_signal(void *arg, int signo)
{
    host *h = arg;
    if (h->gate.state == QH_GATE_LOADING) stop_loading(signo);
    if (h->gate.state == QH_GATE_DRAINING) {
        qh_info("serve.stop", "signal=%d", signo);
        qh_loop_stop(h->loop);
        return;
    }
    qh_info("serve.drain", "signal=%d requests=%d", signo, qh_server_count(h->server).n_exchanges);
    h->gate.state = QH_GATE_DRAINING;
    qh_server_drain(h->server, drained, h);
    qh_timer_set(h->drain_limit, (int64_t)h->opt->drain_seconds * 1000000);
}

/* ---- the beginning ---- */

static qh_status check_exposure(const qh_host_options *opt, qh_err *err)
{
    if (qh_gate_is_loopback(opt->host) || opt->api_key || opt->is_insecure) return QH_OK;
    return qh_fail(err, QH_EINVAL, "%s is not this machine alone: give --api-key KEY, or --insecure to serve everybody", opt->host);
}

static qh_status open_listener(host *h, qh_err *err)
{
    qh_server_opts so = {.on_request = on_request, .arg = h, .limits = h->opt->limits, .tls_cert = h->opt->tls_cert, .tls_key = h->opt->tls_key};
    qh_status st = qh_server_new(&h->server, h->loop, &so, err);
    if (!st) st = qh_server_listen(h->server, h->opt->host, h->opt->port, err);
    if (!st) {
        bool is_v6 = strchr(h->opt->host, ':') != NULL;
        qh_info("serve.listening", "url=%s://%s%s%s:%d", h->opt->tls_cert ? "https" : "http", is_v6 ? "[" : "", h->opt->host,
                is_v6 ? "]" : "", qh_server_port(h->server));
    }
    return st;
}

static qh_status open_lua(host *h, qh_err *err)
{
    qh_fleet_options fo = {.models = h->opt->models, .n_models = h->opt->n_models, .load = h->opt->load, .on_events = on_events, .arg = h};
    qh_lua_opts lo = {.app_path = h->opt->app_path, .loop = h->loop, .is_watching = true, .is_dev = h->opt->is_dev,
                      .allow_net = h->opt->allow_net, .n_allow_net = h->opt->n_allow_net,
                      .resolve_model = resolve_model, .on_app = on_app, .arg = h};
    qh_status st = qh_fleet_new(&h->fleet, h->loop, &fo, err);
    if (st) return st;
    char *data_dir = qh_data_dir(h->opt->data_dir, h->opt->app_path);
    lo.data_dir = data_dir;
    st = qh_lua_new(&h->lua, &lo, err);
    qh_free(data_dir);
    h->gate.lua = h->lua;
    return st;
}

static qh_status open_host(host *h, qh_err *err)
{
    qh_status st = check_exposure(h->opt, err);
    if (!st) st = qh_log_start(err);
    if (!st) st = qh_loop_new(&h->loop, err);
    if (!st) st = qh_signal_new(&h->on_term, h->loop, SIGTERM, on_signal, h, err);
    if (!st) st = qh_signal_new(&h->on_int, h->loop, SIGINT, on_signal, h, err);
    if (!st) st = open_listener(h, err);
    if (!st && h->opt->tls_cert) st = qh_signal_new(&h->on_hup, h->loop, SIGHUP, reload_tls, h, err);
    if (!st) st = open_lua(h, err);
    if (st) return st;
    h->health = qh_timer_new(h->loop, look_at_health, h);
    h->drain_limit = qh_timer_new(h->loop, drained, h);
    qh_timer_set(h->health, HEALTH_PERIOD_US);
    return QH_OK;
}

/* The reverse of opening. The server stops before Lua goes, so that every request is told. */
static void close_host(host *h)
{
    if (h->server) qh_server_stop(h->server);
    qh_lua_free(h->lua);
    h->lua = NULL;
    qh_fleet_free(h->fleet);
    qh_timer_free(h->health);
    qh_timer_free(h->drain_limit);
    qh_server_free(h->server);
    qh_signal_free(h->on_term);
    qh_signal_free(h->on_int);
    qh_signal_free(h->on_hup);
    qh_loop_free(h->loop);
    qh_log_stop();
}

qh_status qh_host_run(const qh_host_options *opt, qh_err *err)
{
    host h = {.opt = opt, .gate = {.api_key = opt->api_key, .admin_key = opt->admin_key, .is_exposed = !qh_gate_is_loopback(opt->host)}, .begun_us = qh_now_us(), .err = err};
    qh_status st = open_host(&h, err);
    if (!st) {
        qh_lua_load(h.lua);
        qh_loop_run(h.loop);
        st = h.status;
    }
    close_host(&h);
    return st;
}
