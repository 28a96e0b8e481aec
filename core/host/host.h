/* host.h - a service from start to end: loop, listener, models, app.
 *
 *   listen -> load the app (which loads its models) -> ready -> SIGTERM or SIGINT: drain -> end
 *
 * The listener opens first, so that a port in use is told at once and /health answers 503 while models
 * load. A first load that fails ends the host; a later one leaves the running app as it is. A second
 * signal stops at once. Thread: the main thread. */
#pragma once
#include "host/fleet.h"

typedef struct {
    const char *app_path;
    const char *data_dir;           /* of qh.store; NULL: as data_dir.h says */
    const char *host;               /* address to listen on; off loopback an api_key or is_insecure is asked for */
    int port;                       /* 0: a free one */
    const char *api_key;            /* NULL: none */
    const char *tls_cert, *tls_key; /* PEM files, both or none: HTTPS. SIGHUP reads them again */
    const char *admin_key;          /* for /metrics and /qhost/; NULL: none, see gate.h */
    bool is_insecure, is_dev;
    const char *const *allow_net;   /* see net/egress.h */
    int n_allow_net;
    const char *const *models;      /* see fleet.h */
    int n_models;
    qh_loaded_options load;
    qh_server_limits limits;        /* zeroed members take the default */
    int drain_seconds;              /* for requests at work after the first signal; then they are cut */
} qh_host_options;

/* Serve until a signal ends it. QH_OK after a drain; an error when it could not start. */
qh_status qh_host_run(const qh_host_options *opt, qh_err *err);
