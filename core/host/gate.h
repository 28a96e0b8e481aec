/* gate.h - what the host answers itself, before any script sees a request: /health, /metrics, keys.
 *
 *   /health         200 {"status":"ok"}; 503 with status "loading", "draining" or "failed"; needs no key
 *   /metrics        Prometheus text
 *   /qhost/reload   generations of the app, what waits, the last loads
 *   the rest   401 without the key when there is one; 503 while loading; else the app's
 *
 * /metrics and all below /qhost/ are the operator's: they ask for the admin key when there is one. Without
 * one they are open to this machine alone, to whoever has the API key, and refused when the service
 * listens to others.
 * These work while a model loads and when the app is broken. Thread: the loop thread. */
#pragma once
#include "lua/host_api.h"

typedef enum { QH_GATE_LOADING, QH_GATE_READY, QH_GATE_DRAINING, QH_GATE_FAILED } qh_gate_state;

typedef struct {
    const char *api_key;            /* NULL: none is asked for. Borrowed */
    const char *admin_key;          /* NULL: none. Borrowed */
    bool is_exposed;                /* others than this machine can reach it */
    const qh_lua *lua;              /* not owned */
    qh_gate_state state;
} qh_gate;

/* True when the gate answered x (and dropped its reference); false: the app may have it. */
bool qh_gate_answers(const qh_gate *g, qh_exchange *x);

/* Whether an address is this machine only: "localhost", 127.0.0.0/8, ::1. */
bool qh_gate_is_loopback(const char *host);
