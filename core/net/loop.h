/* loop.h - the event loop: timers, file descriptors, signals, wakeups from other threads.
 *
 * One loop owns one thread. Callbacks run one after another on that thread and must not wait.
 * libevent stays behind this header: nothing above core/net sees one of its types.
 *
 * Every handle may be freed inside any callback, its own included; after free its callback is
 * never called again. Free all handles before their loop.
 * Thread: the loop thread only, except qh_loop_stop and the qh_wakeup of a qh_waker. */
#pragma once
#include "base/err.h"
#include "base/thread.h"

typedef struct qh_loop qh_loop;

qh_status qh_loop_new(qh_loop **out, qh_err *err);
void      qh_loop_free(qh_loop *l);             /* NULL is fine */
void      qh_loop_run(qh_loop *l);              /* until qh_loop_stop; may be called again after it */
void      qh_loop_stop(qh_loop *l);             /* any thread; sticks when called before run */
void      qh_loop_turn(qh_loop *l, bool is_blocking); /* run what is due; blocking: wait for something first */

/* Call fn(arg) on the next turn: after the callback at work has returned, before the loop sleeps. */
void qh_loop_defer(qh_loop *l, void (*fn)(void *arg), void *arg);
/* Take back every pending call of this pair: whoever frees what arg points to does this first. */
void qh_loop_undefer(qh_loop *l, void (*fn)(void *arg), void *arg);

/* ---- timers: one shot, set again at will ---- */
typedef struct qh_timer qh_timer;
qh_timer *qh_timer_new(qh_loop *l, void (*fn)(void *arg), void *arg); /* not running yet */
void      qh_timer_set(qh_timer *t, int64_t after_us); /* from now; replaces an earlier setting */
void      qh_timer_cancel(qh_timer *t);
bool      qh_timer_is_set(const qh_timer *t);
void      qh_timer_free(qh_timer *t);           /* cancels; NULL is fine */

/* ---- file descriptors: sockets, eventfd, inotify, pipes ---- */
typedef struct qh_watch qh_watch;
enum { QH_READABLE = 1, QH_WRITABLE = 2 };
/* fd stays the caller's: free the watch before closing it. Level-triggered: fn is called again
 * until the cause is gone. An error or hang-up reads as what was asked for. */
qh_status qh_watch_new(qh_watch **out, qh_loop *l, int fd, int what,
                       void (*fn)(void *arg, int what), void *arg, qh_err *err);
qh_status qh_watch_set(qh_watch *w, int what);  /* other interests; 0: none for now */
void      qh_watch_free(qh_watch *w);           /* NULL is fine */

/* ---- a wakeup that other threads may fire (mailboxes, workers) ---- */
typedef struct qh_waker qh_waker;
/* fn(arg) runs on the loop thread, once for any number of signals since its last run. */
qh_status qh_waker_new(qh_waker **out, qh_loop *l, void (*fn)(void *arg), void *arg, qh_err *err);
qh_wakeup qh_waker_wakeup(qh_waker *w);         /* hand this to qh_mbox_new or qh_workers_new */
void      qh_waker_free(qh_waker *w);           /* after its senders are gone; NULL is fine */

/* ---- signals: fn runs on the loop thread as an ordinary callback ---- */
typedef struct qh_signal qh_signal;
qh_status qh_signal_new(qh_signal **out, qh_loop *l, int signo, void (*fn)(void *arg, int signo),
                        void *arg, qh_err *err);
void      qh_signal_free(qh_signal *s);         /* the old disposition returns; NULL is fine */
