/* mbox.h - the bounded queue in which threads meet.
 *
 * Messages are moved: after a successful put the sender forgets what the message owns. Fixed-size
 * messages, first in first out, any number of senders, one receiver. The receiver either waits in
 * qh_mbox_wait or is told through the wakeup, which fires once for each change from "nothing
 * announced" to "something there", so a burst costs one wakeup. */
#pragma once
#include "base/err.h"
#include "base/thread.h"

typedef struct qh_mbox qh_mbox;

/* wakeup.fn may be NULL. */
qh_status qh_mbox_new(qh_mbox **out, size_t msg_bytes, int max_msgs, qh_wakeup wakeup, qh_err *err);
/* Messages still inside are dropped: drain first when they own something. NULL is fine. */
void qh_mbox_free(qh_mbox *m);

qh_status qh_mbox_put(qh_mbox *m, const void *msg);          /* QH_AGAIN: full. QH_ECLOSED: closed */
qh_status qh_mbox_take(qh_mbox *m, void *msg);               /* QH_AGAIN: empty. QH_ECLOSED: closed and empty */
qh_status qh_mbox_wait(qh_mbox *m, int64_t timeout_us);      /* until not empty; <0: forever; QH_ETIMEDOUT, QH_ECLOSED */
void qh_mbox_close(qh_mbox *m);                              /* later puts fail, waiters return */
int  qh_mbox_len(qh_mbox *m);
