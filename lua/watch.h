/* watch.h - tells when one of a set of files changes: written, replaced, made or removed.
 *
 * The folders are watched, not the files: editors replace a file by renaming another one over it.
 * Changes within 50 ms of each other are told once. Thread: the loop thread. */
#pragma once
#include "net/loop.h"

typedef struct qh_watcher qh_watcher;

qh_status qh_watcher_new(qh_watcher **out, qh_loop *loop, void (*fn)(void *arg), void *arg,
                         qh_err *err);
void      qh_watcher_free(qh_watcher *w);       /* NULL is fine */
/* The files to watch from now on; they need not exist, their folders must to be seen. Copied. */
void      qh_watcher_set(qh_watcher *w, const char *const *paths, int n_paths);
