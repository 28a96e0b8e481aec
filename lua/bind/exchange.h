/* exchange.h - one HTTP request in the hands of a script: the userdata x that dispatch is given.
 *
 * The box in Lua outlives the request it points to: a script may keep x, and gets an error from it
 * once the request is over. Thread: the loop thread. */
#pragma once
#include "lua/lua_private.h"

typedef struct {
    qh_exchange *x;             /* one reference; NULL: over */
    void *owner;                /* the user of its qh_exchange_ops is the box; this is behind it */
    qh_task *task;              /* that answers it; NULL: none at the moment */
    qh_waiters waiters;         /* for the body, or until the client takes more */
    bool is_body_asked, is_body_there;
    bool is_sse;                /* it began a text/event-stream */
    bool is_finished;           /* reply, finish or abort was called */
    bool outlives;              /* its task goes on when the client leaves */
} qh_exchange_box;

/* Push a new box around x, whose reference it takes. The caller makes it the user of x's ops,
 * and anchors it. Privileged. */
qh_exchange_box *qh_exchange_push(lua_State *L, qh_exchange *x);
/* For the box on top of L: push the list of functions to call when the client leaves, or nil. Its
 * length. */
int qh_exchange_push_on_abort(lua_State *L);
/* The request is over: the reference goes. */
void qh_exchange_box_close(qh_exchange_box *b);
/* qh_exchange_ops.on_drain; user: the box */
void qh_exchange_box_wake(void *box);
