/* tls.c - see tls.h */
#include "net/tls.h"
#include "base/mem.h"
#include <limits.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <unistd.h>

struct qh_tls_context {
    SSL_CTX *ctx;
};

struct qh_tls {
    SSL *ssl;
    bool wants_write;
    bool is_broken;             /* OpenSSL forbids further calls */
};

static qh_status tls_fail(qh_err *err, const char *what, const char *path)
{
    char reason[256];
    ERR_error_string_n(ERR_peek_last_error(), reason, sizeof reason);
    ERR_clear_error();
    bool is_missing = access(path, R_OK) != 0;
    return qh_fail(err, is_missing ? QH_ENOTFOUND : QH_EFORMAT, "%s: cannot use this %s: %s", path, what,
                   is_missing ? "not readable" : reason);
}

static qh_status load_key(SSL_CTX *ctx, const char *cert_path, const char *key_path, qh_err *err)
{
    bool is_read = SSL_CTX_use_PrivateKey_file(ctx, key_path, SSL_FILETYPE_PEM) == 1;
    unsigned long code = ERR_peek_last_error();
    bool is_mismatch = ERR_GET_LIB(code) == ERR_LIB_X509 && ERR_GET_REASON(code) == X509_R_KEY_VALUES_MISMATCH;
    if (is_mismatch || (is_read && SSL_CTX_check_private_key(ctx) != 1))
        return qh_fail(err, QH_EFORMAT, "%s: not the private key of %s", key_path, cert_path);
    return is_read ? QH_OK : tls_fail(err, "private key", key_path);
}

/* HTTP/1.1 is all that is spoken: say so, or a client that offers h2 as well would be left to guess. */
static int select_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_len,
                           const unsigned char *in, unsigned in_len, void *arg)
{
    static const unsigned char OURS[] = "\x08http/1.1";
    (void)ssl, (void)arg;
    unsigned char *chosen;
    if (SSL_select_next_proto(&chosen, out_len, OURS, sizeof OURS - 1, in, in_len) != OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_NOACK;
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

qh_status qh_tls_context_new(qh_tls_context **out, const char *cert_path, const char *key_path, qh_err *err)
{
    *out = NULL;
    qh_tls_context *t = qh_new0(qh_tls_context);
    qh_status st = QH_OK;
    t->ctx = SSL_CTX_new(TLS_server_method());
    if (!t->ctx) {
        st = qh_fail(err, QH_ENOMEM, "TLS: cannot create a context");
        goto fail;
    }
    SSL_CTX_set_min_proto_version(t->ctx, TLS1_2_VERSION);
    SSL_CTX_set_options(t->ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_mode(t->ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                 SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_session_id_context(t->ctx, (const unsigned char *)"qhost", 5);
    SSL_CTX_set_alpn_select_cb(t->ctx, select_protocol, NULL);
    if (SSL_CTX_use_certificate_chain_file(t->ctx, cert_path) != 1) st = tls_fail(err, "certificate", cert_path);
    else st = load_key(t->ctx, cert_path, key_path, err);
    if (st) goto fail;
    *out = t;
    return QH_OK;
fail:
    ERR_clear_error();
    qh_tls_context_free(t);
    return st;
}

void qh_tls_context_free(qh_tls_context *t)
{
    if (!t) return;
    SSL_CTX_free(t->ctx);       /* counted: connections keep theirs */
    qh_free(t);
}

qh_status qh_tls_new(qh_tls **out, qh_tls_context *t, int fd)
{
    *out = NULL;
    SSL *ssl = SSL_new(t->ctx);
    if (!ssl || SSL_set_fd(ssl, fd) != 1) {
        SSL_free(ssl);
        ERR_clear_error();
        return QH_ENOMEM;
    }
    SSL_set_accept_state(ssl);
    qh_tls *s = qh_new0(qh_tls);
    s->ssl = ssl;
    *out = s;
    return QH_OK;
}

void qh_tls_free(qh_tls *s)
{
    if (!s) return;
    SSL_free(s->ssl);
    qh_free(s);
}

static qh_tls_result judge(qh_tls *s, int rc)
{
    int e = SSL_get_error(s->ssl, rc);
    s->wants_write = e == SSL_ERROR_WANT_WRITE;
    ERR_clear_error();          /* the queue belongs to the thread: leave nothing for the next connection */
    if (e == SSL_ERROR_WANT_READ || e == SSL_ERROR_WANT_WRITE) return QH_TLS_AGAIN;
    if (e == SSL_ERROR_SSL || e == SSL_ERROR_SYSCALL) s->is_broken = true;
    return QH_TLS_END;
}

qh_tls_result qh_tls_read(qh_tls *s, char *buf, size_t cap_bytes, size_t *n)
{
    *n = 0;
    s->wants_write = false;
    int rc = SSL_read(s->ssl, buf, cap_bytes > INT_MAX ? INT_MAX : (int)cap_bytes);
    if (rc <= 0) return judge(s, rc);
    *n = (size_t)rc;
    return QH_TLS_DONE;
}

qh_tls_result qh_tls_write(qh_tls *s, const char *data, size_t len_bytes, size_t *n)
{
    *n = 0;
    int rc = SSL_write(s->ssl, data, len_bytes > INT_MAX ? INT_MAX : (int)len_bytes);
    if (rc <= 0) return judge(s, rc);
    *n = (size_t)rc;
    return QH_TLS_DONE;
}

bool qh_tls_has_pending(const qh_tls *s) { return SSL_pending(s->ssl) > 0; }
bool qh_tls_wants_write(const qh_tls *s) { return s->wants_write; }

void qh_tls_close_notify(qh_tls *s)
{
    if (!s->is_broken && SSL_is_init_finished(s->ssl)) SSL_shutdown(s->ssl);
    ERR_clear_error();
}
