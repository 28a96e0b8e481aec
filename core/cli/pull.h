/* pull.h - fetch a model into the model folder.
 *
 *   hf:OWNER/REPO            the repository's GGUF model (of several the usual quantization)
 *   hf:OWNER/REPO:QUANT      that quantization
 *   hf:OWNER/REPO/FILE       that file
 *   https://HOST/FILE        a file, or with FILE-00001-of-0000N.gguf all shards
 *   file:PATH                a copy, shards likewise
 *
 * Thread: one that may wait. */
#pragma once
#include "base/err.h"

typedef struct {
    const char *source;
    const char *dir;            /* made when missing */
    const char *endpoint;       /* the hub, without a slash at the end */
    const char *token;          /* for the hub; NULL: none */
    const char *sha256;         /* wanted for a single file; NULL: the hub's */
    bool is_forced;             /* replace files that are there */
    bool has_bar;               /* progress bars on stderr */
} qh_pull_opts;

/* Talk goes to stderr. on_file gets the path of each file that is now in its place, shards in order. */
qh_status qh_pull(const qh_pull_opts *opts, void (*on_file)(void *arg, const char *path), void *arg, qh_err *err);
