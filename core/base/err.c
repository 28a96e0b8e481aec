/* err.c - see err.h */
#include "base/err.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name, *text;
} STATUSES[] = {
#define X(name, text) {#name, text},
    QH_STATUS_LIST(X)
#undef X
};

const char *qh_status_name(qh_status st)
{
    size_t n = sizeof STATUSES / sizeof *STATUSES;
    return (size_t)st < n ? STATUSES[st].name : "EUNKNOWN";
}

const char *qh_status_text(qh_status st)
{
    size_t n = sizeof STATUSES / sizeof *STATUSES;
    return (size_t)st < n ? STATUSES[st].text : "unknown status";
}

static void mark_cut(char *msg, int n_wanted)
{
    if (n_wanted >= QH_ERR_MSG_BYTES) memcpy(msg + QH_ERR_MSG_BYTES - 4, "...", 4);
}

qh_status qh_fail_at(qh_err *err, qh_status st, const char *file, int line, const char *fmt, ...)
{
    if (!err || err->status) return st;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(err->msg, sizeof err->msg, fmt, ap);
    va_end(ap);
    mark_cut(err->msg, n);
    err->status = st;
    err->file = file;
    err->line = line;
    return st;
}

void qh_err_prefix(qh_err *err, const char *fmt, ...)
{
    if (!err || !err->status) return;
    char old[QH_ERR_MSG_BYTES], head[QH_ERR_MSG_BYTES];
    memcpy(old, err->msg, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(head, sizeof head, fmt, ap);
    va_end(ap);
    size_t n_head = strlen(head), room = sizeof err->msg - 1;
    if (n_head > room / 2) n_head = room / 2;
    memcpy(err->msg, head, n_head);
    int n = snprintf(err->msg + n_head, sizeof err->msg - n_head, ": %s", old);
    mark_cut(err->msg, n + (int)n_head);
}

void qh_err_clear(qh_err *err)
{
    if (err) *err = (qh_err){0};
}

_Noreturn void qh_assert_failed(const char *cond, const char *file, int line)
{
    fprintf(stderr, "qhost bug: assertion '%s' failed at %s:%d\n", cond, file, line);
    abort();
}
