/* data_dir.c - see data_dir.h */
#include "host/data_dir.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/str.h"
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void append_app(qh_str *out, const char *path)
{
    char real[PATH_MAX];
    if (!realpath(path, real)) snprintf(real, sizeof real, "%s", path);
    const char *slash = strrchr(real, '/'), *leaf = slash ? slash + 1 : real;
    size_t len = strcspn(leaf, ".");
    qh_str_appendf(out, "/qhost/%.*s-%08x", (int)(len ? len : strlen(leaf)), leaf,
                   (unsigned)qh_hash_bytes(real, strlen(real), 0));
}

char *qh_data_dir(const char *given, const char *app_path)
{
    if (given) return qh_strdup(given);
    const char *xdg = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    qh_str out = {0};
    if (xdg && *xdg) qh_str_append_z(&out, xdg);
    else qh_str_appendf(&out, "%s/.local/share", home && *home ? home : "/root");
    append_app(&out, app_path);
    return qh_str_steal(&out);
}
