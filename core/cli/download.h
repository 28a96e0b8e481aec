/* download.h - one file to its place: resumable, checked by SHA-256, put there by rename.
 *
 * Bytes go to PATH.part first. PATH.part.tag says what they belong to (the file's hash, or the
 * server's ETag), so that a later call goes on where this one stopped, and never joins halves of two
 * different files. Lost connections and overloaded servers are tried again by themselves, with
 * growing pauses, as long as bytes keep coming.
 * Thread: one that may wait; each call runs a loop of its own. SIGINT and SIGTERM end it with
 * QH_ECANCELED and leave the part. */
#pragma once
#include "base/err.h"
#include "net/sha256.h"

typedef struct {
    const char *url;                    /* http: or https:; or NULL with source_path */
    const char *source_path;            /* a local file to copy */
    const char *path;                   /* the file's place; its folder exists */
    const char *token;                  /* Bearer, for the URL's own origin; NULL: none */
    const char *sha256;                 /* wanted, in hex; NULL: what the server says in X-Linked-Etag, if anything */
    int64_t len_bytes;                  /* wanted; -1: not known */
    bool is_forced;                     /* replace a file that is there */
    /* Told now and then: bytes there, bytes in all or -1. NULL: nobody. */
    void (*progress)(void *arg, int64_t n_bytes, int64_t total_bytes);
    /* Told once for each retry: why, and how long the pause is. NULL: nobody. */
    void (*on_retry)(void *arg, const char *why, int pause_ms);
    void *arg;
} qh_download_opts;

typedef struct {
    bool was_there;                     /* nothing was fetched */
    bool is_checked;                    /* sha256 was compared with a wanted one */
    char sha256[QH_SHA256_HEX_BYTES];   /* empty when was_there and nothing was wanted */
    int64_t len_bytes;
} qh_download_result;

/* QH_EEXIST: another file has that place. QH_ECHECKSUM: the part was removed. QH_AGAIN: another
 * process is at it. QH_EACCES, QH_ENOTFOUND: the server's 401/403, 404. On any other failure err says
 * how many bytes the part keeps. */
qh_status qh_download(const qh_download_opts *opts, qh_download_result *out, qh_err *err);
