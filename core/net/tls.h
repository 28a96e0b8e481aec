/* tls.h - TLS on the server's side of a non-blocking socket (OpenSSL, TLS 1.2 and 1.3).
 *
 * OpenSSL drives the socket itself; the connection only learns "done", "not now" or "over".
 * A context may be replaced while connections live: each keeps the one it began with.
 * Thread: the loop thread. */
#pragma once
#include "base/err.h"

typedef struct qh_tls_context qh_tls_context;
typedef struct qh_tls qh_tls;

/* PEM files: the certificate with its chain, and its private key. QH_EFORMAT, QH_ENOTFOUND and the
 * file's name when they cannot be used or do not belong together. */
qh_status qh_tls_context_new(qh_tls_context **out, const char *cert_path, const char *key_path, qh_err *err);
void      qh_tls_context_free(qh_tls_context *t);       /* NULL is fine */

typedef enum { QH_TLS_DONE, QH_TLS_AGAIN, QH_TLS_END } qh_tls_result;

qh_status qh_tls_new(qh_tls **out, qh_tls_context *t, int fd);      /* fd stays the caller's; handshakes by itself */
void      qh_tls_free(qh_tls *s);                       /* NULL is fine */
qh_tls_result qh_tls_read(qh_tls *s, char *buf, size_t cap_bytes, size_t *n);
qh_tls_result qh_tls_write(qh_tls *s, const char *data, size_t len_bytes, size_t *n);  /* may take less */
bool      qh_tls_has_pending(const qh_tls *s);          /* decrypted bytes that read will give at once */
bool      qh_tls_wants_write(const qh_tls *s);          /* the last read waits for the socket to be writable */
void      qh_tls_close_notify(qh_tls *s);               /* say that nothing more will be sent */
