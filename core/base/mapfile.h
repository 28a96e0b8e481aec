/* mapfile.h - a read-only memory-mapped file. Thread: any after open. */
#pragma once
#include "base/err.h"

typedef struct {
    const unsigned char *data;  /* NULL when the file is empty */
    size_t len_bytes;
} qh_mapfile;

/* Regular files only. On failure *m is zeroed. A file that another process shortens while it is
 * mapped cannot be defended against here: model files are replaced by rename, never rewritten. */
qh_status qh_mapfile_open(qh_mapfile *m, const char *path, qh_err *err);
void qh_mapfile_close(qh_mapfile *m);       /* zeroed is fine */
