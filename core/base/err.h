/* err.h - statuses and the message that goes with them.
 *
 * Every function that can fail returns a qh_status; when a person will need the reason it also
 * takes a qh_err *. The status tells code what to do next, the message tells a person why.
 * The first failure wins: callers may prefix context, never overwrite.
 * Thread: a qh_err belongs to its caller; no shared state. */
#pragma once
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* name, text. Adding one? lua/bind maps names to Lua, lua/api maps them to HTTP codes. */
#define QH_STATUS_LIST(X)                                                                          \
    X(OK, "ok")                                                                                    \
    X(AGAIN, "full or not ready, try again later")                                                 \
    X(EINVAL, "invalid argument")                                                                  \
    X(EFORMAT, "malformed input")                                                                  \
    X(EUNSUPPORTED, "not supported")                                                               \
    X(ENOTFOUND, "not found")                                                                      \
    X(EEXIST, "already exists")                                                                    \
    X(EACCES, "not allowed")                                                                      \
    X(EIO, "input/output error")                                                                   \
    X(ENOMEM, "out of memory")                                                                     \
    X(ELIMIT, "over a limit")                                                                      \
    X(ECONTEXT, "longer than the context")                                                         \
    X(ECANCELED, "cancelled")                                                                      \
    X(ETIMEDOUT, "timed out")                                                                      \
    X(ECLOSED, "closed")                                                                           \
    X(ECHECKSUM, "checksum differs")                                                               \
    X(ESCRIPT, "script error")                                                                     \
    X(EDEVICE, "device error")

typedef enum {
#define X(name, text) QH_##name,
    QH_STATUS_LIST(X)
#undef X
} qh_status;

enum { QH_ERR_MSG_BYTES = 768 };
typedef struct {
    qh_status status;
    int line;                   /* of the qh_fail call */
    const char *file;           /* static storage */
    char msg[QH_ERR_MSG_BYTES]; /* NUL-terminated; cut with "..." when longer */
} qh_err;

const char *qh_status_name(qh_status st); /* "EFORMAT" */
const char *qh_status_text(qh_status st); /* "malformed input" */

/* Record a failure and return its status. err may be NULL. An earlier failure in err is kept. */
#define qh_fail(err, st, ...) qh_fail_at((err), (st), __FILE__, __LINE__, __VA_ARGS__)
qh_status qh_fail_at(qh_err *err, qh_status st, const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

/* Put "text: " in front of the recorded message. */
void qh_err_prefix(qh_err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void qh_err_clear(qh_err *err);

/* States what we can prove: if it fires, qhost has a bug. On in release builds. */
#define qh_assert(cond) ((cond) ? (void)0 : qh_assert_failed(#cond, __FILE__, __LINE__))
_Noreturn void qh_assert_failed(const char *cond, const char *file, int line);
