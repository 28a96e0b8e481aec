/* mbox.c - a ring under one mutex: a put or take is a memcpy inside it; see mbox.h */
#include "base/mbox.h"
#include "base/mem.h"
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

struct qh_mbox {
    pthread_mutex_t lock;
    pthread_cond_t not_empty;
    unsigned char *ring;
    size_t msg_bytes;
    int head, len, max;
    bool is_closed, is_announced;   /* announced: the wakeup fired and nobody has emptied us since */
    qh_wakeup wakeup;
};

qh_status qh_mbox_new(qh_mbox **out, size_t msg_bytes, int max_msgs, qh_wakeup wakeup, qh_err *err)
{
    *out = NULL;
    if (max_msgs < 1) return qh_fail(err, QH_EINVAL, "mailbox of %d messages", max_msgs);
    unsigned char *ring = qh_try_alloc0((size_t)max_msgs, msg_bytes);
    if (!ring) return qh_fail(err, QH_ENOMEM, "mailbox: %d x %zu bytes", max_msgs, msg_bytes);
    qh_mbox *m = qh_new0(qh_mbox);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->not_empty, &attr);
    pthread_condattr_destroy(&attr);
    m->ring = ring;
    m->msg_bytes = msg_bytes;
    m->max = max_msgs;
    m->wakeup = wakeup;
    *out = m;
    return QH_OK;
}

void qh_mbox_free(qh_mbox *m)
{
    if (!m) return;
    pthread_mutex_destroy(&m->lock);
    pthread_cond_destroy(&m->not_empty);
    qh_free(m->ring);
    qh_free(m);
}

qh_status qh_mbox_put(qh_mbox *m, const void *msg)
{
    pthread_mutex_lock(&m->lock);
    qh_status st = m->is_closed ? QH_ECLOSED : m->len == m->max ? QH_AGAIN : QH_OK;
    bool announce = false;
    if (!st) {
        int tail = (m->head + m->len) % m->max;
        memcpy(m->ring + (size_t)tail * m->msg_bytes, msg, m->msg_bytes);
        m->len++;
        announce = !m->is_announced;
        m->is_announced = true;
        pthread_cond_signal(&m->not_empty);
    }
    pthread_mutex_unlock(&m->lock);
    if (announce && m->wakeup.fn) m->wakeup.fn(m->wakeup.arg);
    return st;
}

qh_status qh_mbox_take(qh_mbox *m, void *msg)
{
    pthread_mutex_lock(&m->lock);
    qh_status st = QH_OK;
    if (m->len) {
        memcpy(msg, m->ring + (size_t)m->head * m->msg_bytes, m->msg_bytes);
        m->head = (m->head + 1) % m->max;
        m->len--;
    } else {
        st = m->is_closed ? QH_ECLOSED : QH_AGAIN;
        m->is_announced = false;
    }
    pthread_mutex_unlock(&m->lock);
    return st;
}

qh_status qh_mbox_wait(qh_mbox *m, int64_t timeout_us)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    if (timeout_us >= 0) {
        int64_t ns = until.tv_nsec + timeout_us % 1000000 * 1000;
        until.tv_sec += timeout_us / 1000000 + ns / 1000000000;
        until.tv_nsec = ns % 1000000000;
    }
    pthread_mutex_lock(&m->lock);
    int rc = 0;
    while (!m->len && !m->is_closed && rc != ETIMEDOUT)
        rc = timeout_us < 0 ? pthread_cond_wait(&m->not_empty, &m->lock)
                            : pthread_cond_timedwait(&m->not_empty, &m->lock, &until);
    qh_status st = m->len ? QH_OK : m->is_closed ? QH_ECLOSED : QH_ETIMEDOUT;
    pthread_mutex_unlock(&m->lock);
    return st;
}

void qh_mbox_close(qh_mbox *m)
{
    pthread_mutex_lock(&m->lock);
    m->is_closed = true;
    pthread_cond_broadcast(&m->not_empty);
    pthread_mutex_unlock(&m->lock);
    if (m->wakeup.fn) m->wakeup.fn(m->wakeup.arg);
}

int qh_mbox_len(qh_mbox *m)
{
    pthread_mutex_lock(&m->lock);
    int n = m->len;
    pthread_mutex_unlock(&m->lock);
    return n;
}
