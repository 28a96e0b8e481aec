/* cmd_serve.c - qhost serve */
#include "base/log.h"
#include "cli/cmd.h"
#include "cli/opts.h"
#include "host/host.h"
#include <stdlib.h>

/* An empty key is no key: a variable that is set to nothing must not open the service to others. */
static const char *key_or_null(const char *key) { return key && *key ? key : NULL; }

int qh_cmd_serve(int argc, char **argv)
{
    qh_opt_list models = {.n = 0};
    qh_opt_list allow_net = {.n = 0};
    int kv_mb = 0, body_mb = 0, head_s = 0, idle_s = 0;
    qh_host_options o = {.host = "127.0.0.1", .port = 8080, .drain_seconds = 30, .api_key = getenv("QHOST_API_KEY"), .admin_key = getenv("QHOST_ADMIN_KEY"),
                         .load = {.device = {.device = "auto", .isa = "auto"}}};
    const qh_opt opts[] = {
        {"port", 'p', QH_OPT_INT, &o.port, 0, 65535, "N", "port to listen on; 0: a free one; default 8080"},
        {"host", 0, QH_OPT_TEXT, &o.host, 0, 0, "A", "address to listen on; default 127.0.0.1"},
        {"api-key", 0, QH_OPT_TEXT, &o.api_key, 0, 0, "KEY", "ask for it in every request but /health; also $QHOST_API_KEY"},
        {"tls-cert", 0, QH_OPT_TEXT, &o.tls_cert, 0, 0, "FILE", "certificate chain (PEM): serve HTTPS; read again on SIGHUP"},
        {"tls-key", 0, QH_OPT_TEXT, &o.tls_key, 0, 0, "FILE", "its private key (PEM)"},
        {"admin-key", 0, QH_OPT_TEXT, &o.admin_key, 0, 0, "KEY", "ask for it at /metrics and /qhost/...; also $QHOST_ADMIN_KEY.\nOff loopback both are shut without one"},
        {"allow-net", 0, QH_OPT_LIST, &allow_net, 0, 0, "HOST", "let scripts reach HOST beside loopback: a name, *.example.com or *,\nperhaps with :PORT. May be repeated"},
        {"insecure", 0, QH_OPT_FLAG, &o.is_insecure, 0, 0, NULL, "off loopback, serve without a key"},
        {"model", 'm', QH_OPT_LIST, &models, 0, 0, "M", "[NAME=]MODEL: what the app's model NAME stands for; without NAME,\nevery name that no other --model gives. May be repeated.\nMODEL is a name from `qhost list`, a path, or scripted:FILE.lua for tests"},
        {"ctx", 'c', QH_OPT_INT, &o.load.n_ctx, 0, 262144, "N", "context in tokens; 0: the model's, as far as memory allows"},
        {"kv-memory", 0, QH_OPT_INT, &kv_mb, 0, 1 << 24, "MB", "KV cache of a model; 0: four contexts, at most 1024 MB"},
        {"max-seqs", 0, QH_OPT_INT, &o.load.max_seqs, 0, 1024, "N", "sequences at work at once; default 64"},
        {"max-queued", 0, QH_OPT_INT, &o.load.max_queued, 0, 100000, "N", "requests waiting; one more gets 429; default 256"},
        {"threads", 't', QH_OPT_INT, &o.load.device.n_threads, 0, 1024, "N", "compute threads; 0: all cores of this process"},
        {"device", 0, QH_OPT_TEXT, &o.load.device.device, 0, 0, "NAME", "auto, cpu or cuda[:N]; auto takes a GPU where there is one"},
        {"gpu-memory", 0, QH_OPT_FLOAT, &o.load.device.memory_share, 0, 0, "X", "share of the GPU's memory to use, all of it planned; 0: 0.9 at most, the\nKV cache as without a GPU"},
        {"deterministic", 0, QH_OPT_FLAG, &o.load.device.is_exact, 0, 0, NULL, "GPU: the same bits in any batch, at a lower speed"},
        {"isa", 0, QH_OPT_TEXT, &o.load.device.isa, 0, 0, "NAME", "level of the CPU kernels; auto, or a name that bench --help lists"},
        {"data", 0, QH_OPT_TEXT, &o.data_dir, 0, 0, "DIR", "folder of the app's stores; default $XDG_DATA_HOME/qhost/APP-..."},
        {"kv-type", 0, QH_OPT_TEXT, &o.load.device.kv_type, 0, 0, "TYPE", "keys and values as bf16 (default) or, on a CPU, q8_0: half the memory"},
        {"no-prefix-cache", 0, QH_OPT_FLAG, &o.load.no_prefix_cache, 0, 0, NULL, "compute every prompt from its start"},
        {"max-conns", 0, QH_OPT_INT, &o.limits.max_conns, 1, 1000000, "N", "open connections; one more gets 503; default 4096"},
        {"max-body", 0, QH_OPT_INT, &body_mb, 1, 1 << 20, "MB", "of a request's body where its route says nothing else; default 32"},
        {"head-timeout", 0, QH_OPT_INT, &head_s, 1, 3600, "S", "for a request's head, from its first byte; then 408; default 10"},
        {"idle-timeout", 0, QH_OPT_INT, &idle_s, 1, 86400, "S", "a connection may wait for its next request; default 75"},
        {"drain", 0, QH_OPT_INT, &o.drain_seconds, 0, 86400, "S", "after SIGTERM, finish requests for so long; default 30"},
        {"dev", 0, QH_OPT_FLAG, &o.is_dev, 0, 0, NULL, "tracebacks of script errors in replies"},
        {0}};
    const qh_opt_spec spec = {
        "qhost serve APP.lua [options]",
        "Serve an app. Saving one of its files swaps it for new requests; a file that does not load leaves\n"
        "the old one serving. SIGTERM or Ctrl-C finishes the requests at work; a second one stops at once.", opts, 1, 1};
    const char *args[argc];
    int n_args, rc = qh_opts_parse(&spec, argc, argv, args, &n_args);
    if (rc >= 0) return rc;
    o.app_path = args[0];
    o.api_key = key_or_null(o.api_key);
    o.admin_key = key_or_null(o.admin_key);
    o.models = models.items;
    o.n_models = models.n;
    o.allow_net = allow_net.items;
    o.n_allow_net = allow_net.n;
    o.load.kv_bytes = (int64_t)kv_mb * 1000000;
    o.limits.max_body_bytes = (int64_t)body_mb << 20;
    o.limits.head_us = (int64_t)head_s * 1000000;
    o.limits.idle_us = (int64_t)idle_s * 1000000;
    qh_err err = {0};
    return qh_host_run(&o, &err) ? qh_cmd_fail(&err) : QH_EXIT_OK;
}
