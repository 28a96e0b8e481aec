/* background.h - work of an app outside its requests: qh.background, qh.every, req:on_abort.
 *
 * A generation's standing tasks, those that its load named, run while it serves and are cancelled when
 * it stops. What a request starts counts like one: the generation lives until it is over, at most
 * QH_BACKGROUND_GRACE_S after it stopped serving. Each run is a task of its own with the limits of a
 * request; one that fails is logged. Thread: the loop thread. */
#pragma once
#include "lua/lua_private.h"

enum { QH_BACKGROUND_GRACE_S = 10 };

void qh_background_begin(qh_app *app);      /* the app serves from now on: its standing tasks start */
void qh_background_end(qh_app *app);        /* ... no longer: they are cancelled, and none starts */
void qh_background_free(qh_app *app);       /* after its VM is gone */
/* Run the function on top of the main state's stack, once, and pop it. Privileged. */
void qh_background_run(qh_app *app, const char *name);
